"""Checkpoints that others wrote: the authors of US3L, and torchvision's and timm's ResNets, MobileNetV2s and ViTs.

The authors' files hold ``epoch``, ``arch`` (``us_cifar_resnet18``, ``us_vit_tiny``, ...), ``optimizer`` and ``state_dict``, whose
names begin with ``module.encoder_q.`` (student), ``module.encoder_k.`` (momentum teacher), ``module.predictor.`` and
``module.predictor_new.`` (distillation head); of ViTs with ``module.base_encoder.`` and ``module.momentum_encoder.``. Behind that
stand this project's names and the projector as ``fc`` or ``head``. Their networks work at any width. Running BatchNorm statistics
that some of them carry are a mixture over widths and are not used (METHOD section 3): a width is calibrated instead.

All others are dense networks, used at width 1.0 with their running statistics. A network is found by a name that only its family
has, whatever stands in front of it.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from pretrain.checkpoint import load_weights
from pretrain.errors import UserError
from pretrain.models import ARCHITECTURES, build
from pretrain.models.dense import CIFAR_SIZE, HEADS, IMAGENET_SIZE, MOCO_V3_HEADS, shaped_like

BRANCHES = ("student", "teacher")
# A parameter that only one family of networks has.
ANCHORS = {
    "layer1.0.conv1.weight": "resnet", "features.1.body.0.weight": "mobilenetv2", "patch_embed.proj.weight": "vit",
    "features.1.conv.0.0.weight": "mobilenetv2_torchvision", "conv_stem.weight": "mobilenetv2_timm",
    "conv_proj.weight": "vit_torchvision",
}
# Parts of the name of a momentum teacher: the authors', MoCo v3's, DINO's, timm's.
TEACHERS = {"encoder_k", "momentum_encoder", "teacher", "state_dict_ema"}
SELF_SUPERVISED = {"encoder_q", "encoder_k", "base_encoder", "momentum_encoder"}
# What stands behind an encoder and is no part of it: classifiers, projectors, decoders.
ASIDE = ("fc.", "head.", "heads.", "classifier.", "projector.", "pre_logits.", "mask_token", "decoder_")
STATISTICS = (".running_mean", ".running_var", ".num_batches_tracked")
US = "us_"  # begins the authors' names of slimmable networks


@dataclass
class Foreign:
    """An encoder from elsewhere.

    Attributes:
        encoder: a slimmable encoder of this project, or a :class:`~pretrain.models.dense.DenseEncoder`.
        arch: its name: this project's, or the library's family.
        slimmable: whether it works at other widths than 1.0.
        size: pixels of the images it was made for.
        epoch: finished epochs of pretraining; 0 where the file does not say.
        projector: what stands behind the encoder in the file, by name, unused.
    """

    encoder: nn.Module
    arch: str
    slimmable: bool
    size: int
    epoch: int = 0
    projector: dict[str, Tensor] = field(default_factory=dict)


def adopt(payload: object, path: Path, branch: str = "student", arch: str | None = None) -> Foreign:
    """The encoder in ``payload``, which :func:`pretrain.checkpoint.read` got from ``path``.

    Args:
        branch: ``student`` or ``teacher``, where the file holds both.
        arch: the authors' or this project's name of a slimmable network, where the file does not name it.

    Raises:
        UserError: there is no known network in it, not this branch, or its weights do not fit: the first that does not is named.
    """
    tensors = dict(_tensors(payload))
    prefix, family = _choose(tensors, path, branch)
    state = {name[len(prefix):]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    projector = {name: tensor for name, tensor in state.items() if name.startswith(ASIDE)}
    state = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()
             if name not in projector}
    if arch and not _own_name(arch):
        known = ", ".join(name for name in ARCHITECTURES if not name.endswith("_heads"))
        raise UserError(f"unknown architecture {arch!r}; write --arch with us_ and a name of the authors, or one of {known}")
    named = arch or (payload.get("arch") if isinstance(payload, dict) else None)
    named = named if isinstance(named, str) else ""
    epoch = payload.get("epoch") if isinstance(payload, dict) else None
    epoch = epoch if isinstance(epoch, int) else 0
    if arch or _is_slimmable(named, family, prefix, state):
        return _slimmable(state, family, named, path, epoch, projector)
    return _dense(state, family, prefix, path, epoch, projector)


def _tensors(payload: object, prefix: str = ""):
    """Every tensor in nested mappings, by its dotted name; an optimizer's are not of interest."""
    for key, value in payload.items() if isinstance(payload, Mapping) else ():
        if isinstance(value, Tensor):
            yield f"{prefix}{key}", value
        elif key != "optimizer":
            yield from _tensors(value, f"{prefix}{key}.")


def _choose(tensors: dict[str, Tensor], path: Path, branch: str) -> tuple[str, str]:
    """What stands before the names of the asked branch's network, and its family."""
    found = {name[:-len(anchor)]: family for name in tensors for anchor, family in ANCHORS.items()
             if name == anchor or name.endswith("." + anchor)}
    if not found:
        first = next(iter(tensors), None)
        seen = f"its first tensor is {first}" if first else "it holds no tensors"
        raise UserError(f"{path} is not a checkpoint of this project, of the authors of US3L, nor a ResNet, MobileNetV2 or ViT of "
                        f"torchvision or timm ({seen})")
    mine = {prefix: family for prefix, family in found.items()
            if bool(TEACHERS & set(prefix.split("."))) == (branch == "teacher")}
    if not mine:
        other = BRANCHES[branch == "student"]
        raise UserError(f"{path} holds no {branch}; write --branch {other}")
    if len(mine) > 1:
        raise UserError(f"{path} holds several networks ({', '.join(prefix.rstrip('.') or 'without prefix' for prefix in mine)}); "
                        "keep one of them in the file")
    return next(iter(mine.items()))


def _is_slimmable(arch: str, family: str, prefix: str, state: dict[str, Tensor]) -> bool:
    if arch:
        return arch.startswith(US) or family == "mobilenetv2"
    # The authors' BatchNorms have no running statistics; MoCo's dense ones, of the same prefixes, have.
    ours = family == "mobilenetv2" or (family in ("resnet", "vit") and bool(SELF_SUPERVISED & set(prefix.split("."))))
    return ours and not (family == "resnet" and any(name.endswith(STATISTICS) for name in state))


def _slimmable(state: dict[str, Tensor], family: str, named: str, path: Path, epoch: int, projector: dict[str, Tensor]) -> Foreign:
    state = {name: tensor for name, tensor in state.items() if not name.endswith(STATISTICS)}
    arch = _own_name(named) or _by_shapes(state, family, path)
    encoder = build(arch)
    load_weights(encoder, state, path, f"{named} ({arch})" if named not in ("", arch) else arch)
    own_size = encoder.patch_size * encoder.grid_size if family == "vit" else IMAGENET_SIZE
    return Foreign(encoder, arch, True, CIFAR_SIZE if arch.endswith("_cifar") else own_size, epoch, projector)


def _own_name(arch: str) -> str | None:
    """This project's name of what the authors call ``arch``: their us_cifar_resnet18 is resnet18_cifar here."""
    if arch in ARCHITECTURES:
        return arch
    name = arch.removeprefix(US)
    name = f"{name.removeprefix('cifar_')}_cifar" if name.startswith("cifar_") else name
    return name if arch.startswith(US) and name in ARCHITECTURES else None


@functools.cache
def _shapes(arch: str) -> frozenset[tuple[str, tuple[int, ...]]]:
    with torch.device("meta"):
        return frozenset((name, tuple(tensor.shape)) for name, tensor in build(arch).state_dict().items())


def _by_shapes(state: dict[str, Tensor], family: str, path: Path) -> str:
    """The architecture that agrees with most parameters; the authors slim ViTs by ``input``."""
    here = {(name, tuple(tensor.shape)) for name, tensor in state.items()}
    candidates = [arch for arch in ARCHITECTURES if arch.startswith(family) and not arch.endswith("_heads")]
    score = {arch: len(here & _shapes(arch)) - len(_shapes(arch) - here) for arch in candidates}
    best = [arch for arch in candidates if score[arch] == max(score.values())]
    if family == "mobilenetv2":  # shapes do not tell strides
        raise UserError(f"{path} does not say which MobileNetV2 it is; write --arch {' or --arch '.join(best)}")
    return best[0]


def _dense(state: dict[str, Tensor], family: str, prefix: str, path: Path, epoch: int, projector: dict[str, Tensor]) -> Foreign:
    # torchvision called a ViT's linear layers linear_1 and linear_2 when it published weights, and reads them so still.
    state = {name.replace(".mlp.linear_1.", ".mlp.0.").replace(".mlp.linear_2.", ".mlp.3."): t for name, t in state.items()}
    moco = bool(SELF_SUPERVISED & set(prefix.split(".")))
    encoder = shaped_like(family, state, MOCO_V3_HEADS if moco else HEADS)
    # Counters of batches are in newer files only, and nothing is computed from them.
    counters = {name: torch.tensor(0) for name in encoder.network.state_dict() if name.endswith(".num_batches_tracked")}
    load_weights(encoder.network, counters | state, path, f"a dense {family}")
    return Foreign(encoder, family, False, encoder.size, epoch, projector)
