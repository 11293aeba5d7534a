"""torch.compile for the passes that occur in every step.

Every width is a network of its own shapes, and a compiler would meet dozens of them. The widest and the narrowest are in most steps
(the sandwich rule), so only these two are compiled, and the momentum teacher; all other widths run as they are, unless there are
few (``widths.grid``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from pretrain.slimmable import slimmable_layers, width_key


def compile_at(network: nn.Module, student: nn.Module, chosen: Sequence[float], backend: str = "inductor") -> Callable:
    """``network`` (``student`` or a wrapper of it) as a function that runs compiled at the widths ``chosen``."""
    # Each width is compiled with and without distillation; beyond the limit torch would go on without compiling, in silence.
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 4 * len(chosen))
    compiled = torch.compile(network, dynamic=False, backend=backend)
    some_layer, widths = next(slimmable_layers(student)), {width_key(width) for width in chosen}

    def forward(*arguments):
        return (compiled if width_key(some_layer.width) in widths else network)(*arguments)

    return forward
