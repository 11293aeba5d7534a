"""The moving average of the student, at the width that learns."""

from collections.abc import Sequence

from pretrain.config import Config
from pretrain.objective.networks import Teacher
from pretrain.objective.teaching import Pass, Seen, TeacherSetting
from pretrain.slimmable import at_width

MOMENTUM = True


class MomentumPerWidth(Teacher):
    """Every width learns from the average of the student's weights at that very width: no knowledge of wider ones reaches it."""

    def __init__(self, setting: TeacherSetting):
        super().__init__(setting.student, setting.cfg.objective.shuffle)

    def targets(self, now: Pass) -> Seen:
        with at_width(self, now.width):
            return self.guide(now.views)

    @classmethod
    def passes(cls, cfg: Config, widths: Sequence[float]) -> list[float]:
        return list(widths)
