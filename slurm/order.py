"""In which order the jobs of one launch may start, where no cluster's queue decides it."""

from __future__ import annotations

from collections.abc import Sequence

from rundir.errors import UserError
from slurm.jobs import Job, JobState, Outcome


class Order:
    """The jobs of a launch that have not started: in the order given, each behind those in its ``after`` and in this launch.

    What is in ``after`` and no job of the launch has succeeded before. A job that is ``last`` is behind all others, however they
    ended. Raises :class:`UserError` where jobs wait for each other in a circle.
    """

    def __init__(self, jobs: Sequence[Job]):
        self._waiting = dict(enumerate(jobs))
        self._open = {job.name for job in jobs}  # not ended
        self._last = {job.name for job in jobs if job.last}
        self._ended: dict[str, Outcome] = {}
        _check_circles(jobs)

    def __bool__(self) -> bool:
        """Whether any job has not started yet."""
        return bool(self._waiting)

    def take(self) -> tuple[int, Job] | None:
        """The place and the job that may start now, which counts as started; None where none may."""
        for index, job in self._waiting.items():
            if not self._open.intersection(job.after) and (not job.last or self._open <= self._last):
                del self._waiting[index]
                return index, job
        return None

    def end(self, outcome: Outcome) -> list[tuple[int, Outcome]]:
        """Note how a job ended; the places and outcomes of those that therefore never start, each behind what it needs."""
        self._open.discard(outcome.name)
        self._ended[outcome.name] = outcome
        found = []
        if outcome.state != JobState.DONE:
            for index, job in list(self._waiting.items()):
                if outcome.name in job.after and index in self._waiting:
                    del self._waiting[index]
                    lost = Outcome(job.name, outcome.state, _why(outcome))
                    found += [(index, lost), *self.end(lost)]
        return found


def _why(needed: Outcome) -> str:
    if needed.state == JobState.LEFT:
        return f"it needs {needed.name}, which is left to another launcher"
    return f"blocked: needs {needed.name}"


def _check_circles(jobs: Sequence[Job]) -> None:
    after = {job.name: set(job.after) for job in jobs}
    while free := [name for name, needed in after.items() if not needed & after.keys()]:
        for name in free:
            del after[name]
    if after:
        raise UserError(f"jobs wait for each other in a circle: {', '.join(list(after)[:3])}")
