"""The public interface of this room: run a list of jobs and return how each ended."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from slurm.jobs import Job, JobState, Outcome, attempt, check_names
from slurm.order import Order
from slurm.settings import Cluster

EXECUTORS = ("inline", "local", "slurm")


def run_all(
    jobs: Sequence[Job],
    executor: str,
    log_dir: Path | str,
    parallel: int = 1,
    gpus: int = 0,
    on_update: Callable[[Outcome], object] | None = None,
    cluster: Cluster | None = None,
    wait: bool = True,
    preload: Sequence[str] = (),
) -> list[Outcome]:
    """Run every job and return their outcomes in the order of ``jobs``.

    A job starts when those in its ``after`` have succeeded. One that fails stops only those that need it: they are ``failed`` too,
    without having started, and what needs a job that was ``left`` is left as well.

    executor: ``inline`` (one after another in this process; output stays on the terminal), ``local`` (forks of one
        process that has loaded ``preload``; output goes to ``<log_dir>/<job name>.log``) or ``slurm`` (arrays in
        Slurm's queue through submitit; output goes there too). The ledger of ``slurm`` is in ``slurm/`` next to ``log_dir``.
    log_dir: made if missing. A second launch appends to the logs of the first.
    parallel: ``local``: at most this many jobs at once, each with an equal share of the processor's cores.
    gpus: ``local``: how many GPUs this process sees (``torch.cuda.device_count()``). Each running job then sees one of
        them, in turn; with 0 it sees what this process sees.
    on_update: called in this thread when a job starts (state ``running``) and when it ends; of ``slurm`` first when it is
        ``submitted``.
    cluster: ``slurm``: its settings, with the kinds of all jobs.
    wait: ``slurm``: watch the jobs until all have ended, else return as soon as they are in the queue. Ctrl-C while
        waiting leaves them there.
    preload: ``local``: modules that jobs import, loaded once for all of them.

    Raises ValueError for an unknown executor, a ``parallel`` below 1, or a name that two jobs share (also where the
    names give the same log); :class:`UserError` for what Slurm refuses. Ctrl-C and SIGTERM stop
    every job of ``local`` before they take effect here.
    """
    if executor not in EXECUTORS:
        raise ValueError(f"unknown executor {executor!r}; choose one of {', '.join(EXECUTORS)}")
    if parallel < 1:
        raise ValueError(f"parallel is {parallel}; at least one job must run at a time")
    if executor == "slurm" and cluster is None:
        raise ValueError("the executor slurm needs settings of a cluster")
    log_dir = Path(log_dir).absolute()
    check_names(jobs, log_dir)
    if not jobs:
        return []
    on_update = on_update or (lambda outcome: None)
    if executor == "slurm":
        from slurm.watch import launch

        return launch(jobs, cluster, log_dir, on_update, wait)
    log_dir.mkdir(parents=True, exist_ok=True)
    if executor == "inline":
        return _run_inline(jobs, log_dir, on_update)

    from slurm.local import LocalLaunch

    return LocalLaunch(jobs, log_dir, parallel, gpus, on_update, preload).run()


def _run_inline(jobs: Sequence[Job], log_dir: Path, on_update: Callable[[Outcome], object]) -> list[Outcome]:
    order, outcomes = Order(jobs), {}
    while (taken := order.take()) is not None:
        index, job = taken
        on_update(Outcome(job.name, JobState.RUNNING))
        log = job.log(log_dir)
        state, why = attempt(job.function, job.args, lambda log=log: log.open("a", encoding="utf-8"))  # type: ignore[misc]
        outcome = Outcome(job.name, state, why, log if state == JobState.FAILED else None)
        for place, ended in [(index, outcome), *order.end(outcome)]:
            outcomes[place] = ended
            on_update(ended)
    return [outcomes[place] for place in sorted(outcomes)]
