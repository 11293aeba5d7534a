"""CUDA graphs of passes: what a step asks of the GPU is recorded once for each width and then repeated in one call.

A pass, forward and backward, is a fixed sequence of kernels on fixed memory, as long as nothing in it depends on a number that is
on the GPU. What changes from step to step (the views, the targets) is copied to where the recording read it; gradients are added
to the buffer that they have for the whole training. What is not a pass (the teacher's average, the update) is a few calls already
and stays outside, so that rates and coefficients may change.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_leaves, tree_unflatten

from pretrain.objective.gradients import Gradients

WARM_UP = 3  # passes before one is recorded: libraries choose their kernels in them
MOST = 256  # recordings; more are a mistake of the caller's, whose passes differ in every step
Work = Callable[[], Any]
Recorder = Callable[[Work], tuple[Callable[[], None], Any]]


class CudaRecorder:
    """Records on the present GPU; all recordings share one pool of memory, since they never run at once."""

    def __init__(self):
        self.pool = torch.cuda.graph_pool_handle()

    def __call__(self, work: Work) -> tuple[Callable[[], None], Any]:
        """What repeats ``work``, and the tensors that it returns, which every repetition writes anew."""
        beside = torch.cuda.Stream()
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            for _ in range(WARM_UP):
                before = work()
        torch.cuda.current_stream().wait_stream(beside)
        places = like(before)
        graph = torch.cuda.CUDAGraph()
        # Other threads may do as they like meanwhile: one of the data loader allocates pinned memory.
        with torch.cuda.graph(graph, pool=self.pool, capture_error_mode="thread_local"):
            result = moved(work(), before, places)
        return graph.replay, result


def like(result: Any) -> list:
    """Memory of their own for the tensors in ``result``, which another recording that shares the pool could write to."""
    return [torch.empty_like(value) if isinstance(value, Tensor) else value for value in tree_leaves(result)]


@torch.no_grad()
def moved(result: Any, before: Any, places: Sequence) -> Any:
    """``result`` copied to ``places``, but for what ``before``, an earlier result of the same work, has too: work handed it on."""
    values, form = tree_flatten(result)
    kept = []
    for value, earlier, place in zip(values, tree_leaves(before), places, strict=True):
        own = isinstance(value, Tensor) and value is not earlier
        kept.append(place.copy_(value) if own else value)
    return tree_unflatten(kept, form)


# By type of device; a test puts one for the CPU here.
RECORDERS: dict[str, Callable[[], Recorder]] = {"cuda": CudaRecorder}


@dataclass
class Recording:
    """What repeats a pass, the leaves of its inputs where it reads them, and what it returns."""

    replay: Callable[[], None]
    inputs: list
    result: Any


class Graphs:
    """Runs passes from their recordings. ``gradients``: where they add theirs, which recording leaves as it was.

    What one recording returns another may read where it is; a tensor of anybody else, or one of several recordings in turn, is
    copied to a place of its own first.
    """

    def __init__(self, gradients: Gradients, recorder: Recorder):
        self.gradients, self.recorder = gradients, recorder
        self.made: dict[Hashable, Recording] = {}
        self.own: set[int] = set()  # ids of tensors that recordings return
        self.in_turn: dict[Hashable, set[int]] = defaultdict(set)  # inputs by number that come from several recordings
        self.places: dict[Hashable, Tensor] = {}  # where recordings read what others give them
        self.held: dict[Hashable, Tensor] = {}  # whose copy is there

    def __call__(self, key: Hashable, work: Callable[..., Any], inputs: Sequence) -> Any:
        """``work(*inputs)``, which is the same sequence of operations whenever ``key`` and the shapes in ``inputs`` are.

        Tensors may stand in lists and tuples, within ``inputs`` and in what is returned, which the next call of that key
        overwrites.

        Raises:
            RuntimeError: there are more different passes than a recording is worth.
        """
        given, form = tree_flatten(inputs)
        key = (key, tuple(value.shape if isinstance(value, Tensor) else value for value in given))
        placed = self._placed(key, given)
        found = self.made.get(key)
        if found is not None:
            others = {number for number, (a, b) in enumerate(zip(found.inputs, placed, strict=True)) if a is not b}
            if others:
                self.in_turn[key] |= others
                self.own -= _ids(found.result) - _ids(found.inputs)
                placed, found = self._placed(key, given), None
        if found is None:
            if len(self.made) == MOST:
                raise RuntimeError(f"{MOST} different passes are recorded; record only where there are few")
            found = self.made[key] = self._record(work, placed, form)
        found.replay()
        return found.result

    def _placed(self, key: Hashable, given: Sequence) -> list:
        """``given``, every tensor where recordings of ``key`` find it."""
        return [
            self._place(number, value, number in self.in_turn[key]) if isinstance(value, Tensor) else value
            for number, value in enumerate(given)
        ]

    def _place(self, number: int, value: Tensor, copied: bool) -> Tensor:
        own = id(value) in self.own
        if own and not copied:
            return value
        slot = number, value.shape, value.dtype
        if slot not in self.places:
            self.places[slot] = torch.empty_like(value)
        if own or self.held.get(slot) is not value:  # a recording's own tensor has other numbers each time
            self.places[slot].copy_(value)
            self.held[slot] = value
        return self.places[slot]

    def _record(self, work: Callable[..., Any], placed: list, form: TreeSpec) -> Recording:
        before = self.gradients.flat.clone()
        replay, result = self.recorder(lambda: work(*tree_unflatten(placed, form)))
        self.gradients.flat.copy_(before)
        self.own |= _ids(result) - _ids(placed)
        return Recording(replay, placed, result)


def _ids(values: Any) -> set[int]:
    return {id(value) for value in tree_leaves(values) if isinstance(value, Tensor)}
