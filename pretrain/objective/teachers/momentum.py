"""The moving average of the student."""

from pretrain.objective.networks import Teacher
from pretrain.objective.teaching import TeacherSetting

MOMENTUM = True


class Momentum(Teacher):
    """Every width learns from the average of the student's weights, at full width (METHOD section 2.1)."""

    def __init__(self, setting: TeacherSetting):
        super().__init__(setting.student, setting.cfg.objective.shuffle)
