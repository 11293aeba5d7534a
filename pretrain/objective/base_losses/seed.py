"""SEED's distillation from a trained network, or its absolute variant (METHOD sections 2 and 7)."""

from torch import Tensor

from pretrain.objective.losses.absolute import negative_cosine
from pretrain.objective.losses.module import LossModule, LossSetting
from pretrain.objective.losses.similarity import seed

DISTANCE = "relative"
OWN_VIEW = True


class Seed(LossModule):
    """Similarities to a queue of the teacher's outputs, or with ``seed_loss=mse`` the distance to the teacher's output."""

    def __init__(self, setting: LossSetting):
        super().__init__()
        self.setting = setting

    def forward(self, student: Tensor, target: Tensor) -> Tensor:
        _, cfg, queue = self.setting
        if cfg.seed_loss == "mse":
            return negative_cosine(student, target)
        return seed(student, target, queue.rows, cfg.seed_student_temperature, cfg.seed_teacher_temperature)
