"""Extraction: a width as an ordinary dense network (METHOD section 3)."""

from __future__ import annotations

import copy

from torch import nn

from pretrain.slimmable.width import Slimmable


def extract(model: nn.Module, width: float) -> nn.Module:
    """A dense copy of ``model`` at ``width``: plain ``torch.nn`` layers, weights sliced and copied, nothing shared.

    BatchNorms take the statistics calibrated for ``width``; where there are none they use those of each batch. The result is in
    evaluation mode. A module that is neither slimmable nor contains a slimmable layer is copied as it is. A container with
    parameters of its own that follow the width gives them by ``parameters_at(width)``, name to sliced tensor.
    """
    return _dense(model, width).eval()


def _dense(module: nn.Module, width: float) -> nn.Module:
    if isinstance(module, Slimmable):
        return module.extract_at(width)
    if next(module.children(), None) is None:
        return copy.deepcopy(module)
    dense = copy.copy(module)
    dense._parameters = {name: copy.deepcopy(parameter) for name, parameter in module._parameters.items()}
    for name, active in (module.parameters_at(width) if hasattr(module, "parameters_at") else {}).items():
        dense._parameters[name] = nn.Parameter(active.detach().clone(), requires_grad=module._parameters[name].requires_grad)
    dense._buffers = {name: copy.deepcopy(buffer) for name, buffer in module._buffers.items()}
    dense._modules = {name: _dense(child, width) for name, child in module._modules.items()}
    return dense
