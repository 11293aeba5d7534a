"""Which jobs become tasks of which array, so that Slurm's own dependencies say what a job waits for.

A dependent array has the indices of the array it waits for (``aftercorr``): its task i starts when task i there has succeeded,
and a task that failed takes down its own followers only. Pure bookkeeping: nothing here talks to Slurm.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rundir.errors import UserError
from slurm.jobs import Job


@dataclass
class Array:
    """Jobs of one kind by array index.

    Attributes:
        behind: what each task waits for, the one with the same index: an array of this launch (its number), one that is in the
            queue already (its id), or nothing.
        also: names of single jobs that all tasks wait for.
    """

    kind: str
    behind: int | str | None = None
    also: tuple[str, ...] = ()
    last: bool = False
    jobs: dict[int, Job] = field(default_factory=dict)


def plan(jobs: Sequence[Job], queued: Mapping[str, str], largest: int) -> list[Array]:
    """``jobs`` as arrays of at most ``largest`` tasks, an array behind those it waits for.

    Args:
        queued: jobs that are in the queue already, by name: ``"ARRAY_INDEX"``. What is in ``after`` and neither there nor in
            ``jobs`` has succeeded before.
        largest: also the limit of an index (Slurm's MaxArraySize).

    Raises:
        UserError: jobs wait for each other in a circle.
    """
    arrays: list[Array] = []
    place: dict[str, tuple[int, int]] = {}  # name -> number of its array here, index
    own = {job.name for job in jobs}
    left = [job for job in jobs if not job.last]
    while left:
        ready = [job for job in left if all(name in place or name not in own for name in job.after)]
        if not ready:
            raise UserError(f"jobs wait for each other in a circle: {', '.join(job.name for job in left[:3])}")
        _place(ready, arrays, place, queued, largest)
        left = [job for job in left if job.name not in place]
    for job in jobs:
        if job.last:
            arrays.append(Array(job.kind, last=True, jobs={0: job}))
    return arrays


def _place(ready: Sequence[Job], arrays: list[Array], place: dict, queued: Mapping[str, str], largest: int) -> None:
    """Add arrays for jobs all of whose predecessors have their place."""
    groups: dict[tuple, dict[int, Job]] = defaultdict(dict)
    followers: dict[tuple, int] = defaultdict(int)  # of one job, of one kind: each in an array of its own
    roots: dict[str, int] = defaultdict(int)
    for job in ready:
        waits = [name for name in job.after if name in place or name in queued]
        if not waits:
            number, index = divmod(roots[job.kind], largest)
            roots[job.kind] += 1
            groups[job.kind, None, (), number][index] = job
            continue
        behind, index = place.get(waits[0]) or _parsed(queued[waits[0]])
        sibling = followers[waits[0], job.kind]
        followers[waits[0], job.kind] += 1
        groups[job.kind, behind, tuple(waits[1:]), sibling][index] = job
    for (kind, behind, also, _), tasks in groups.items():
        for index, job in tasks.items():
            place[job.name] = (len(arrays), index)
        arrays.append(Array(kind, behind, also, jobs=tasks))


def _parsed(task: str) -> tuple[str, int]:
    array, _, index = task.partition("_")
    return array, int(index)


def spec(indices: Sequence[int]) -> str:
    """Indices as sbatch's ``--array`` takes them: ``0-3,7``."""
    runs: list[list[int]] = []
    for index in sorted(indices):
        if runs and index == runs[-1][1] + 1:
            runs[-1][1] = index
        else:
            runs.append([index, index])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)
