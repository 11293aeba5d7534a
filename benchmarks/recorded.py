"""A recording of a pass on a CPU that is as close to a CUDA graph as can be: the same operators on the same memory, no Python.

Whatever a graph could not have (a number that Python looked at, an argument that changes from step to step, memory that moves)
shows as another result, or as an error.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.launches import is_view
from pretrain.graphs import like, moved

LOOKS = ("_local_scalar_dense", "nonzero", "is_nonzero", "item", "equal", "masked_select", "unique_consecutive")


class _Tape(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.calls: list[tuple] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function._schema.name.removeprefix("aten::")
        if name in LOOKS:
            raise RuntimeError(f"a CUDA graph cannot have {name}: the host would wait for the device")
        result = function(*args, **(kwargs or {}))
        if not is_view(function):
            self.calls.append((function, args, kwargs or {}, result))
        return result


def recorder() -> Callable[[Callable[[], Any]], tuple[Callable[[], None], Any]]:
    """A recorder for :class:`pretrain.graphs.Graphs`."""
    return record


def record(work: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
    """What repeats the operators of ``work`` on the tensors that they had, and what it returned."""
    before = work()  # gradients settle and libraries choose, as in the warm-up of a graph
    places = like(before)
    with _Tape() as tape:
        result = moved(work(), before, places)

    def replay() -> None:
        with torch.no_grad(), torch._C._AutoDispatchBelowAutograd():
            for function, args, kwargs, there in tape.calls:
                again = function(*args, **kwargs)
                if any(argument.alias_info is not None and argument.alias_info.is_write for argument in function._schema.arguments):
                    continue
                for old, new in zip(tree_leaves(there), tree_leaves(again), strict=True):
                    if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                        old.copy_(new)

    return replay, result
