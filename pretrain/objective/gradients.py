"""The gradients of all parameters in one buffer, which stays where it is for the whole training.

Clearing them is one call instead of one per parameter, and so is averaging them over processes; and the memory never moves, which
CUDA graphs need: they write to the addresses that they were recorded with.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

ALIGNED = 16  # numbers: each parameter's part starts at a multiple, as memory that is allocated for it alone would


class Gradients:
    """Gradients of ``parameters``, all of one type and on one device, with the memory layout of their parameters.

    With ``late`` a parameter has none until the first backward pass that reaches it; otherwise all have one, zero, from the start.
    ``flat`` (N,) holds them, the last parameter's first: a backward pass finishes them in about this order. ``place`` is the part
    of each.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], late: bool = False):
        self.parameters = list(parameters)
        self.place: dict[nn.Parameter, slice] = {}
        used = 0
        for parameter in reversed(self.parameters):
            self.place[parameter] = slice(used, used + parameter.numel())
            used += -(-parameter.numel() // ALIGNED) * ALIGNED
        first = self.parameters[0]
        self.flat = torch.zeros(used, dtype=first.dtype, device=first.device)
        for parameter in self.parameters:
            if late:
                self._settle_after_first(parameter)
            else:
                parameter.grad = self.of(parameter)

    def of(self, parameter: nn.Parameter) -> Tensor:
        """The part of the buffer that is the gradient of ``parameter``, in its shape and layout."""
        return self.flat.as_strided(parameter.shape, parameter.stride(), self.place[parameter].start)

    def clear(self) -> None:
        """Set all to zero."""
        self.flat.zero_()

    def settle(self, parameter: nn.Parameter, gradient: Tensor | None = None) -> None:
        """Give ``parameter`` its place in the buffer, holding ``gradient`` (default: what is there)."""
        place = self.of(parameter)
        if gradient is not None:
            place.copy_(gradient)
        parameter.grad = place

    def _settle_after_first(self, parameter: nn.Parameter) -> None:
        def settle(reached: nn.Parameter) -> None:
            handle.remove()
            if reached.grad.data_ptr() != self.of(reached).data_ptr():
                self.settle(reached, reached.grad)

        handle = parameter.register_post_accumulate_grad_hook(settle)
