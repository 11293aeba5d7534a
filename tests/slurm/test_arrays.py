"""Jobs become arrays: everything once, nothing before what it waits for, task by task."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rundir.errors import UserError
from slurm.arrays import plan, spec
from slurm.jobs import Job

KINDS = ("train", "score")


@st.composite
def graphs(draw):
    """Up to 30 jobs, each behind up to two earlier ones, some of which are in the queue already; the last one perhaps a report."""
    count = draw(st.integers(1, 30))
    jobs = []
    for i in range(count):
        before = draw(st.lists(st.integers(0, i - 1), max_size=2, unique=True)) if i else []
        jobs.append(Job(f"j{i}", print, kind=draw(st.sampled_from(KINDS)), after=tuple(f"j{k}" for k in before)))
    queued = {f"j{i}": f"{900 + i % 3}_{i}" for i in draw(st.sets(st.integers(0, count - 1)))}
    jobs = [job for job in jobs if job.name not in queued]
    if draw(st.booleans()):
        jobs.append(Job("end", print, kind="report", last=True))
    return jobs, queued, draw(st.integers(1, 40))


@given(graphs())
def test_every_job_is_placed_once_and_waits_for_what_it_needs(graph):
    jobs, queued, largest = graph
    arrays = plan(jobs, queued, largest)
    placed = [(number, index, job) for number, array in enumerate(arrays) for index, job in array.jobs.items()]
    assert sorted(job.name for *_, job in placed) == sorted(job.name for job in jobs)
    where = {job.name: (number, index) for number, index, job in placed}
    for number, index, job in placed:
        array = arrays[number]
        assert job.kind == array.kind and array.last == job.last
        waits = {name for name in job.after if name in where or name in queued}
        # What sbatch is told: the task of the same index in the array behind, and single jobs.
        told = set(array.also)
        if isinstance(array.behind, int):
            assert array.behind < number
            told.add(arrays[array.behind].jobs[index].name)
        elif array.behind is not None:
            told |= {name for name, task in queued.items() if task == f"{array.behind}_{index}"}
        assert told == waits
        assert all(where[name][0] < number for name in array.also if name in where)
        if array.behind is None:
            assert index < largest
    if any(job.last for job in jobs):
        assert arrays[-1].last


def test_seeds_and_cells_are_tasks_of_few_arrays():
    """A grid's usual shape: 100 trainings, two evaluations of each, four students of one teacher, and the report."""
    jobs = [Job(f"t{i}", print, kind="train") for i in range(100)]
    jobs += [Job(f"t{i}.{what}", print, kind="score", after=(f"t{i}",)) for i in range(100) for what in "ab"]
    jobs += [Job(f"s{i}", print, kind="train", after=("t7",)) for i in range(4)]
    jobs += [Job("end", print, kind="report", last=True)]
    arrays = plan(jobs, {}, 1001)
    assert [(array.kind, len(array.jobs), array.behind) for array in arrays] == [
        ("train", 100, None),
        ("score", 100, 0),
        ("score", 100, 0),
        *[("train", 1, 0)] * 4,
        ("report", 1, None),
    ]
    assert [len(array.jobs) for array in plan(jobs[:100], {}, 30)] == [30, 30, 30, 10]


def test_a_circle_is_refused():
    with pytest.raises(UserError, match="circle: a, b"):
        plan([Job("a", print, after=("b",)), Job("b", print, after=("a",))], {}, 10)


@given(st.sets(st.integers(0, 60), min_size=1))
def test_spec_names_these_indices(indices):
    read = set()
    for part in spec(list(indices)).split(","):
        first, _, last = part.partition("-")
        read |= set(range(int(first), int(last or first) + 1))
    assert read == indices
