"""Feature distillation (METHOD section 7: US3L, R-50): inner feature maps of a sub-network learn from the full width's."""

from __future__ import annotations

from torch import Tensor, nn

from pretrain.models.encoder import Encoder
from pretrain.slimmable import Skippable, SlimmableConv2d


def tapped(encoder: Encoder) -> list[nn.Module]:
    """The last BatchNorm of stages 2, 3 and 4 at the present depth."""
    return [_last(encoder, name.split(".")) for name in encoder.stage_norms[1:]]


def _last(encoder: Encoder, parts: list[str]) -> nn.Module:
    """The layer ``parts`` of ``encoder``; where its block is skipped, that of the block before."""
    for place, part in enumerate(parts):
        block = encoder.get_submodule(".".join(parts[: place + 1]))
        if isinstance(block, nn.Identity) or (isinstance(block, Skippable) and block.skipped):
            return _last(encoder, [*parts[:place], str(int(part) - 1), *parts[place + 1 :]])
    return encoder.get_submodule(".".join(parts))


def feature_adapters(encoder: Encoder) -> nn.ModuleList:
    """For each of stages 2, 3 and 4 a 1x1 convolution from the channels of a width to all (B, C_i(w), H, W) -> (B, C_i, H, W)."""
    return nn.ModuleList(SlimmableConv2d(rule, rule.channels, 1, slice_out=False) for rule in encoder.stage_rules[1:])


def with_stage_norms(encoder: Encoder, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Features (B, D(w)) of images (B, 3, H, W), and the outputs of the last BatchNorm of stages 2, 3 and 4, (B, C_i(w), H_i, W_i).

    They are copies: a residual block adds its shortcut to that output in place.
    """
    maps: list[Tensor] = []
    hooks = [norm.register_forward_hook(lambda module, inputs, output: maps.append(output.clone())) for norm in tapped(encoder)]
    try:
        return encoder(x), maps
    finally:
        for hook in hooks:
            hook.remove()
