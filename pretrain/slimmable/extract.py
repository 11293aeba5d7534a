"""Extraction: a width as an ordinary dense network (METHOD section 3)."""

from __future__ import annotations

import copy

from torch import nn

from pretrain.slimmable.base import ParametersAtWidth, Resize, Resized, Skippable, slimmable_layers
from pretrain.slimmable.patches import KeepPatches, KeptPatches, share_of
from pretrain.slimmable.structure import canonical
from rundir.subnet import Subnet, Width


def extract(model: nn.Module, width: Width) -> nn.Module:
    """A dense copy of ``model`` at ``width``: plain ``torch.nn`` layers, weights sliced and copied, nothing shared.

    BatchNorms take the statistics calibrated for ``width``; where there are none they use those of each batch. The result is in
    evaluation mode. A module that is neither slimmable nor contains a slimmable layer is copied as it is. Parameters outside of
    layers follow the width where their module is a :class:`ParametersAtWidth`. Blocks that a sub-network skips become
    ``nn.Identity``, so that the others keep their names.

    Raises:
        ValueError: ``width`` is a sub-network that ``model`` does not have.
    """
    width = canonical(model, width) if isinstance(width, Subnet) else width
    # A deep copy in which each slimmable layer is known already: as its dense counterpart.
    replaced: dict[int, object] = {id(layer): layer.extract_at(width) for layer in slimmable_layers(model)}
    for module in model.modules():
        if isinstance(module, Skippable) and module.skipped_at(width):
            replaced[id(module)] = nn.Identity()
        elif isinstance(module, Resize):
            side = width.resolution if isinstance(width, Subnet) else None
            replaced[id(module)] = nn.Identity() if side is None else Resized(side)
        elif isinstance(module, KeepPatches):
            replaced[id(module)] = KeptPatches(share_of(width))
    for module in (m for m in model.modules() if isinstance(m, ParametersAtWidth)):
        for name, active in module.parameters_at(width).items():
            own = module.get_parameter(name)
            replaced[id(own)] = nn.Parameter(active.detach().clone(), requires_grad=own.requires_grad)
    return copy.deepcopy(model, replaced).eval()
