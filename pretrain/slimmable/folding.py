"""BatchNorm folded into the convolution before it, within a slimmable network at its present width."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, fx, nn

from pretrain.slimmable.base import Slimmable
from pretrain.slimmable.layers import SlimmableBatchNorm2d, SlimmableConv2d
from pretrain.slimmable.width import at_width

Pair = tuple[str, str]  # names of a convolution and of the BatchNorm that alone reads what it gives
_known: weakref.WeakKeyDictionary[nn.Module, list[Pair]] = weakref.WeakKeyDictionary()


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, qualified_name: str) -> bool:
        return isinstance(module, Slimmable) or super().is_leaf_module(module, qualified_name)


def pairs_of(model: nn.Module) -> list[Pair]:
    """Each convolution of ``model`` whose output only a BatchNorm reads, and that one; traced once for each model. None where
    torch.fx cannot follow its forward method.
    """
    if model not in _known:
        with at_width(model, 1.0):
            _known[model] = _traced(model)
    return _known[model]


def _traced(model: nn.Module) -> list[Pair]:
    try:
        graph = _Tracer().trace(model)
    except Exception:  # fx says in many ways that it cannot follow
        return []
    calls = [node for node in graph.nodes if node.op == "call_module"]
    uses = [node.target for node in calls]
    found = []
    for node in calls:
        before = node.args[0] if node.args else None
        if (
            isinstance(before, fx.Node)
            and before in calls
            and len(before.users) == 1
            and isinstance(model.get_submodule(str(node.target)), SlimmableBatchNorm2d)
            and isinstance(model.get_submodule(str(before.target)), SlimmableConv2d)
            and uses.count(node.target) == uses.count(before.target) == 1
        ):
            found.append((str(before.target), str(node.target)))
    return found


@contextmanager
def folded(model: nn.Module) -> Iterator[None]:
    """Inside the block ``model``, calibrated and in evaluation mode, computes the same up to rounding at its present width without
    those BatchNorms that directly follow a convolution. Neither its parameters nor its width may change there, nor may they take
    part in a gradient.
    """
    modules, changed = dict(model.named_modules()), []
    try:
        for convolution, norm in ((modules[a], modules[b]) for a, b in pairs_of(model)):
            if norm.calibrated:  # else of a block that this width leaves out
                changed.append((convolution, norm, convolution.reuse, convolution.slices))
                convolution.__dict__.update(slices=_folded(*convolution.sliced(), *norm.scale_and_shift()), reuse=True)
                norm.__dict__["passes"] = True
        yield
    finally:
        for convolution, norm, reuse, slices in changed:
            convolution.__dict__.update(reuse=reuse, slices=slices)
            norm.__dict__["passes"] = False


def _folded(weight: Tensor, bias: Tensor | None, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """Weight (O, I, k, k) and bias (O,) whose convolution gives ``scale`` times what the given ones do, plus ``shift``."""
    with torch.no_grad():
        weight = (weight * scale[:, None, None, None]).contiguous(memory_format=torch.channels_last)
        return weight, shift if bias is None else shift + scale * bias
