"""A trained network."""

from pretrain.config import Config
from pretrain.objective.frozen import FrozenTeacher, teacher_of
from pretrain.objective.teaching import TeacherSetting
from rundir.errors import UserError


class Frozen(FrozenTeacher):
    """Every width learns from ``objective.seed_teacher`` at its widest, whose weights never change: guidance without drift."""

    def __init__(self, setting: TeacherSetting):
        super().__init__(teacher_of(setting.cfg), setting.cfg.objective.seed_teacher_bn == "batch", setting.student.chunks)


def check(cfg: Config) -> None:
    """Raise :class:`UserError` where no trained network is named."""
    if cfg.objective.teacher == "frozen" and not cfg.objective.seed_teacher:
        raise UserError("objective.teacher=frozen learns from a trained network; set objective.seed_teacher=RUN_DIRECTORY")
