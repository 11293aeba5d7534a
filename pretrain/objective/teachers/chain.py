"""The next wider width."""

from pretrain.objective.teaching import Guide, Pass, Seen, TeacherSetting


class Chain(Guide):
    """A width learns from the projections of the next wider one of the step; the widest is its own teacher, as online."""

    def __init__(self, setting: TeacherSetting):
        super().__init__()

    def targets(self, now: Pass) -> Seen:
        return now.seen if now.base else now.wider
