"""The student itself."""

from pretrain.objective.teaching import Guide, TeacherSetting


class Online(Guide):
    """Every width of a step learns from the widest network's projections in that step (METHOD section 2.1)."""

    def __init__(self, setting: TeacherSetting):
        super().__init__()
