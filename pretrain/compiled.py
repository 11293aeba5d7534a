"""torch.compile for the passes that occur in every step.

Every width is a network of its own shapes, and a compiler would meet dozens of them. The widest and the narrowest are in most steps
(the sandwich rule), so only these two are compiled, and the momentum teacher; all other widths run as they are.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from pretrain.slimmable import slimmable_layers, width_key


def compile_ends(network: nn.Module, student: nn.Module, ends: tuple[float, float], backend: str = "inductor") -> Callable:
    """``network`` (``student`` or its data-parallel wrapper) as a function that runs compiled at the two widths of ``ends``."""
    compiled = torch.compile(network, dynamic=False, backend=backend)
    some_layer, widths = next(slimmable_layers(student)), {width_key(width) for width in ends}

    def forward(*arguments):
        return (compiled if width_key(some_layer.width) in widths else network)(*arguments)

    return forward
