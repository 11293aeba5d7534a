"""SlimCLR's: the similarities that the contrastive base loss compares, towards those of the widest network."""

import torch
from torch import Tensor

from pretrain.objective.losses.module import LossModule, LossSetting
from pretrain.objective.losses.relative import cosines_to_keys, cosines_to_queue
from pretrain.objective.losses.similarity import kl

DISTANCE = "neither"


class Kl(LossModule):
    """KL divergence of softmaxes of cosines with the own target and the queue, or with all targets of the batch."""

    def __init__(self, setting: LossSetting):
        super().__init__()
        self.setting = setting

    def forward(self, student: Tensor, target: Tensor, widest: Tensor) -> Tensor:
        with torch.autocast(student.device.type, enabled=False):
            return kl(self._cosines(student, target), self._cosines(widest, target), self.setting.objective.kl_temperature)

    def _cosines(self, output: Tensor, target: Tensor) -> Tensor:
        """What the contrastive base loss compares, without its temperature."""
        _, cfg, queue = self.setting
        if queue is not None:
            return cosines_to_queue(output, target, queue.rows)
        return cosines_to_keys(output, target, cfg.gather_negatives)
