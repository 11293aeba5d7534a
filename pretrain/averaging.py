"""Gradients averaged over processes, as soon as they are complete.

torch's DistributedDataParallel has to walk the graph of every pass to find the parameters that it does not reach, since heads take
turns within a step. Here gradients live in one buffer, cut into parts; a part is on its way while the backward pass still computes
the next one, and one that no pass has reached has nothing to average.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pretrain.objective.gradients import Gradients

PART_BYTES = 25 * 2**20  # of a reduction, as DistributedDataParallel has it; small ones wait more than they send


@torch.no_grad()
def same_everywhere(network: nn.Module) -> None:
    """Give ``network`` the first process's weights: drawn from one seed they are equal already, on equal machines."""
    for parameter in network.parameters():
        dist.broadcast(parameter, 0)


class Averaging:
    """Averages ``gradients`` over all processes, which must do the same passes.

    With ``early`` the reduction of a part begins when the backward pass has finished it; :meth:`finish` waits for all. Without, all
    is done there, in as few calls: after an update's last pass, or where passes are CUDA graphs.
    """

    def __init__(self, gradients: Gradients, early: bool):
        self.gradients, self.processes = gradients, dist.get_world_size()
        self.parts: list[Tensor] = []
        self.sizes: list[int] = []  # parameters of each part
        self.reached: list[int] = []  # of them, by passes since the last reduction
        self.sent: list[dist.Work] = []
        self._cut(max(1, PART_BYTES // gradients.flat.element_size()))
        self.early = early

    def _cut(self, most: int) -> None:
        flat, start, members = self.gradients.flat, 0, []
        order = list(self.gradients.place.items())
        for position, (parameter, _) in enumerate(order):
            members.append(parameter)
            end = order[position + 1][1].start if position + 1 < len(order) else len(flat)
            if end - start >= most or end == len(flat):
                self._add(flat[start:end], members)
                start, members = end, []

    def _add(self, part: Tensor, members: list[nn.Parameter]) -> None:
        index = len(self.parts)
        self.parts.append(part)
        self.sizes.append(len(members))
        self.reached.append(0)

        def arrived(parameter: nn.Parameter) -> None:
            self.reached[index] += 1
            if self.early and self.reached[index] == self.sizes[index]:
                self._send(index)

        for parameter in members:
            parameter.register_post_accumulate_grad_hook(arrived)

    def _send(self, index: int) -> None:
        self.parts[index].mul_(1 / self.processes)
        self.sent.append(dist.all_reduce(self.parts[index], async_op=True))

    def finish(self) -> None:
        """Average what is left, and wait for all that is on its way."""
        for index, count in enumerate(self.reached):
            # A pass that is repeated from a recording does not say what it reaches.
            if not self.early or 0 < count < self.sizes[index]:
                self._send(index)
        for work in self.sent:
            work.wait()
        self.sent.clear()
        self.reached = [0] * len(self.parts)
