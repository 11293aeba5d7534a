"""DINO: an output has the sharpened and centred distribution of its target."""

from collections.abc import Sequence
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor

from pretrain.config import Config
from pretrain.distributed import rows_of_processes, several
from pretrain.objective.losses.module import LossModule, LossSetting
from pretrain.objective.prototypes import check_prototypes
from pretrain.slimmable.layers import wide
from rundir.fields import Number

DISTANCE = "neither"
Temperature = Annotated[float, Number(0, strictly=True)]


class Dino(LossModule):
    """Cross-entropy of softmax((t - centre) / teacher_temperature) and softmax(s / student_temperature) (arXiv 2104.14294, eq. 1).

    It is multiplied by the student's temperature, as InfoNCE is in MoCo v3 (arXiv 2104.02057). Rows (B, K) are cosines with
    prototypes (``model.prototypes``). The centre is the moving average of the mean target of each base pass, over all processes
    (eq. 4); before the first it is 0.
    """

    def __init__(
        self,
        setting: LossSetting,
        *,
        student_temperature: Temperature = 0.1,
        teacher_temperature: Temperature = 0.04,
        centre_momentum: Annotated[float, Number(0, 1)] = 0.9,
    ):
        super().__init__()
        self.student_temperature, self.teacher_temperature = student_temperature, teacher_temperature
        self.centre_momentum = centre_momentum
        self.register_buffer("centre", torch.zeros(setting.dim))

    def forward(self, student: Tensor, target: Tensor) -> Tensor:
        with torch.autocast(student.device.type, enabled=False):
            wanted = F.softmax((wide(target.detach()) - self.centre) / self.teacher_temperature, dim=1)
            given = F.log_softmax(wide(student) / self.student_temperature, dim=1)
            return -self.student_temperature * (wanted * given).sum(1).mean()

    @torch.no_grad()
    def observe(self, targets: Sequence[Tensor]) -> None:
        mean = torch.cat([wide(t) for t in targets]).mean(0, keepdim=True)
        mean = rows_of_processes(mean).mean(0) if several() else mean[0]
        self.centre.lerp_(mean.to(self.centre), 1 - self.centre_momentum)


def check(cfg: Config) -> None:
    """Raise :class:`UserError` where there are no prototypes."""
    check_prototypes(cfg, "dino")
