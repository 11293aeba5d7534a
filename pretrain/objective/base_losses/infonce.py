"""InfoNCE with the negatives that the objective asks for: SimCLR's, MoCo's or MoCo v3's."""

from torch import Tensor

from pretrain.objective.losses.module import LossModule, LossSetting
from pretrain.objective.losses.relative import infonce, infonce_keys, infonce_queue

DISTANCE = "relative"


class Infonce(LossModule):
    """Negatives are a queue of past targets, the other images' targets (``negatives=keys``), or all other rows of the batch."""

    def __init__(self, setting: LossSetting):
        super().__init__()
        self.setting = setting

    def forward(self, student: Tensor, target: Tensor) -> Tensor:
        _, cfg, queue = self.setting
        if queue is not None:
            return infonce_queue(student, target, queue.rows, cfg.temperature)
        if cfg.negatives == "keys":
            return infonce_keys(student, target, cfg.temperature, cfg.gather_negatives)
        return infonce(student, target, cfg.temperature, cfg.gather_negatives, cfg.two_sided)
