from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from rundir.errors import UserError
from rundir.machine import cores
from slurm.executors import run_all
from slurm.jobs import Job, Outcome
from slurm.local import _child_environment
from tests.slurm import callables

ROOT = Path(__file__).resolve().parents[2]


def wait_until(condition, seconds: float = 600.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)


def alive(pid: int) -> bool:
    """Whether the process runs (one that ended and was not yet collected by its parent does not)."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.parametrize("executor", ["inline", "local"])
def test_jobs_run_and_failures_stay_alone(executor, tmp_path):
    jobs = [
        Job("first", callables.write, (tmp_path / "first", "1")),
        Job("bad", callables.fail, ("no such\nthing",)),
        Job("leaves", callables.leave, (3,)),
        Job("last", callables.write, (tmp_path / "last", "4")),
    ]
    updates: list[Outcome] = []
    outcomes = run_all(jobs, executor, tmp_path / "logs", parallel=2, on_update=updates.append)

    assert [(outcome.name, outcome.state, outcome.error) for outcome in outcomes] == [
        ("first", "done", ""),
        ("bad", "failed", "ValueError: no such thing"),
        ("leaves", "failed", "SystemExit: 3"),
        ("last", "done", ""),
    ]
    assert (tmp_path / "first").read_text() == "1" and (tmp_path / "last").read_text() == "4"
    assert "Traceback" in outcomes[1].log.read_text() and "in fail" in outcomes[1].log.read_text()
    assert outcomes[1].log == tmp_path / "logs" / "bad.log"
    for job, outcome in zip(jobs, outcomes, strict=True):
        assert [update.state for update in updates if update.name == job.name] == ["running", outcome.state]
    assert not [path for path in (tmp_path / "logs").iterdir() if path.suffix != ".log"], "the work folder was left"


@pytest.mark.parametrize("executor", ["inline", "local"])
def test_what_is_left_to_another_process_is_neither_done_nor_failed(executor, tmp_path):
    outcomes = run_all([Job("a", callables.leave_to, ("process 7\non n1",)), Job("b", print)], executor, tmp_path / "logs")
    assert [(outcome.state, outcome.error) for outcome in outcomes] == [("left", "process 7 on n1"), ("done", "")]


def test_nothing_to_do(tmp_path):
    assert run_all([], "local", tmp_path / "logs") == []
    assert not (tmp_path / "logs").exists()


@pytest.mark.parametrize("change", [{"executor": "cluster"}, {"parallel": 0}])
def test_bad_settings_are_named(change, tmp_path):
    settings = {"executor": "inline", "log_dir": tmp_path, **change}
    with pytest.raises(ValueError, match=str(next(iter(change.values())))):
        run_all([Job("a", print)], **settings)


@pytest.mark.parametrize("names", [("a", "a"), ("a b", "a_b")])
def test_names_must_differ(names, tmp_path):
    with pytest.raises(ValueError, match="share the log"):
        run_all([Job(name, print) for name in names], "inline", tmp_path)


def test_inline_runs_in_this_process_and_lets_ctrl_c_through(tmp_path):
    seen = []

    def interrupt():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_all([Job("a", seen.append, (os.getpid(),)), Job("b", interrupt), Job("c", print)], "inline", tmp_path)
    assert seen == [os.getpid()]


def test_local_never_runs_more_than_asked_at_once(tmp_path):
    names = [f"job{number}" for number in range(4)]
    jobs = [Job(name, callables.span, (tmp_path, name, 0.3)) for name in names]
    outcomes = run_all(jobs, "local", tmp_path / "logs", parallel=2)
    assert [outcome.state for outcome in outcomes] == ["done"] * 4
    spans = [tuple(map(float, (tmp_path / name).read_text().split())) for name in names]
    assert max(sum(begin <= moment < end for begin, end in spans) for moment, _ in spans) <= 2


def test_local_jobs_run_at_the_same_time(tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    jobs = [Job("here", callables.meet, (here, there)), Job("there", callables.meet, (there, here))]
    assert [outcome.state for outcome in run_all(jobs, "local", tmp_path / "logs", parallel=2)] == ["done", "done"]


def test_local_job_that_is_killed_is_noticed(tmp_path):
    jobs = [Job("killed", callables.kill_oneself), Job("other", callables.write, (tmp_path / "other", "fine"))]
    killed, other = run_all(jobs, "local", tmp_path / "logs", parallel=2)
    assert killed.state == "failed" and "killed" in killed.error and killed.log.exists()
    assert other.state == "done" and (tmp_path / "other").read_text() == "fine"


def test_a_killed_job_is_said_to_be_killed(tmp_path):
    (outcome,) = run_all([Job("killed", callables.kill_oneself)], "local", tmp_path / "logs")
    assert outcome.error == "the process was killed by SIGKILL (out of memory?), without a result"


def test_libraries_are_loaded_once_and_each_job_has_its_own_copy(tmp_path):
    """A job finds a module loaded that was loaded for it, unchanged by the job before."""
    jobs = [Job(name, callables.change_module, ("colorsys", tmp_path / name)) for name in ("first", "second")]
    run_all(jobs, "local", tmp_path / "logs", preload=("colorsys", "no_such_module"))
    assert [(tmp_path / name).read_text() for name in ("first", "second")] == ["loaded unchanged"] * 2
    run_all(jobs[:1], "local", tmp_path / "logs")
    assert (tmp_path / "first").read_text() == "not loaded"


def test_jobs_of_a_lost_server_fail_and_the_others_get_another_one(tmp_path):
    pids = tmp_path / "pids"
    jobs = [Job("long", callables.sleep_with_child, (pids, 60, True)), Job("next", callables.write, (tmp_path / "next", "fine"))]

    def kill_server():
        wait_until(pids.exists)
        stat = Path(f"/proc/{pids.read_text().split()[0]}/stat").read_text()
        os.kill(int(stat.rpartition(")")[2].split()[1]), signal.SIGKILL)

    killer = threading.Thread(target=kill_server)
    killer.start()
    long, other = run_all(jobs, "local", tmp_path / "logs")
    killer.join()
    assert (long.state, long.error) == ("failed", "the process was killed, without a result")
    assert other.state == "done" and (tmp_path / "next").read_text() == "fine"
    wait_until(lambda: not any(alive(int(pid)) for pid in pids.read_text().split()))


def test_a_server_that_cannot_start_is_a_crash(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(RuntimeError, match=r"the process that starts jobs ended \(exit code 1\): it said nothing"):
        run_all([Job("a", print)], "local", tmp_path / "logs")


def test_killed_job_leaves_no_children(tmp_path):
    pids = tmp_path / "pids"
    job = Job("parent", callables.sleep_with_child, (pids, 60, False))

    def kill_parent():
        wait_until(pids.exists)
        os.kill(int(pids.read_text().split()[0]), signal.SIGKILL)

    killer = threading.Thread(target=kill_parent)
    killer.start()
    (outcome,) = run_all([job], "local", tmp_path / "logs")
    killer.join()
    assert outcome.state == "failed"
    wait_until(lambda: not any(alive(int(pid)) for pid in pids.read_text().split()))


def test_local_log_has_everything_the_job_said_and_keeps_what_was_there(tmp_path):
    for word in ("once", "twice"):
        (outcome,) = run_all([Job("talk", callables.say, (word,))], "local", tmp_path)
    text = outcome.log.read_text()
    for word in ("once", "twice"):
        assert all(f"{stream} {word}\n" in text for stream in ("out", "err", "child"))


def test_local_job_that_cannot_travel_or_arrive(tmp_path):
    class LostAtSea:
        def __reduce__(self):
            return callables.fail, ("lost",)

    jobs = [
        Job("lock", callables.read_value, (threading.Lock(),)),
        Job("lost", callables.read_value, (LostAtSea(),)),
        Job("fine", callables.read_value, (1,)),
    ]
    lock, lost, fine = run_all(jobs, "local", tmp_path, parallel=2)
    assert lock.state == "failed" and lock.error.startswith("cannot be sent to another process: TypeError")
    assert lost.state == "failed" and lost.error == "ValueError: lost"
    assert fine.state == "done"


def test_local_jobs_share_cores_and_gpus(tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    jobs = [Job(f"job{number}", callables.write_environment, (tmp_path / str(number),)) for number in range(2)]

    run_all(jobs, "local", tmp_path / "logs", parallel=2, gpus=2)
    seen = [(tmp_path / str(number)).read_text().splitlines() for number in range(2)]
    threads = max(1, cores() // 2)
    assert seen == [[f"OMP_NUM_THREADS={threads}", f"CUDA_VISIBLE_DEVICES={gpu}"] for gpu in (4, 7)]

    monkeypatch.setenv("OMP_NUM_THREADS", "3")  # the user's own choice
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    run_all(jobs[:1], "local", tmp_path / "logs")
    assert (tmp_path / "0").read_text() == "OMP_NUM_THREADS=3\nCUDA_VISIBLE_DEVICES=unset"


def test_one_job_gets_all_cores(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert _child_environment(1)["OMP_NUM_THREADS"] == str(cores())
    assert _child_environment(10_000)["OMP_NUM_THREADS"] == "1"


def test_exception_in_the_listener_stops_the_jobs(tmp_path):
    pids = tmp_path / "pids"

    def listener(outcome: Outcome) -> None:
        if outcome.name == "quick" and outcome.state == "done":
            wait_until(pids.exists)
            raise RuntimeError("the listener is broken")

    jobs = [Job("long", callables.sleep_with_child, (pids, 60, False)), Job("quick", print)]
    with pytest.raises(RuntimeError, match="listener"):
        run_all(jobs, "local", tmp_path / "logs", parallel=2, on_update=listener)
    wait_until(lambda: not any(alive(int(pid)) for pid in pids.read_text().split()))


@pytest.mark.parametrize(
    ("signum", "to_group", "deaf", "code"),
    [
        (signal.SIGINT, True, False, 130),  # Ctrl-C in a terminal goes to everything in the foreground
        (signal.SIGINT, False, False, 130),
        (signal.SIGINT, False, True, 130),
        (signal.SIGTERM, False, False, 143),
        (signal.SIGHUP, True, False, 129),
        (signal.SIGKILL, False, True, -signal.SIGKILL),
    ],
)
def test_stopping_the_launcher_stops_its_jobs(signum, to_group, deaf, code, tmp_path):
    pids = [tmp_path / "pids0", tmp_path / "pids1"]
    program = textwrap.dedent(f"""
        import signal, sys
        from pathlib import Path
        from slurm.executors import run_all
        from slurm.jobs import Job
        from tests.slurm import callables

        for signum in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):  # under nohup some are ignored, and that is inherited
            signal.signal(signum, signal.default_int_handler if signum == signal.SIGINT else signal.SIG_DFL)
        jobs = [Job(path, callables.sleep_with_child, (Path(path), 300, {deaf})) for path in sys.argv[2:]]
        try:
            run_all(jobs, "local", sys.argv[1], parallel=2)
        except KeyboardInterrupt:
            sys.exit(130)
    """)
    command = [sys.executable, "-c", program, str(tmp_path / "logs"), *map(str, pids)]
    launcher = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, start_new_session=True)
    wait_until(lambda: all(path.exists() for path in pids))
    (os.killpg if to_group else os.kill)(launcher.pid, signum)
    assert launcher.wait(timeout=600) == code
    for path in pids:
        wait_until(lambda path=path: not any(alive(int(pid)) for pid in path.read_text().split()))


@pytest.mark.parametrize("executor", ["inline", "local"])
def test_a_job_starts_behind_what_it_needs_and_not_without_it(executor, tmp_path):
    def write(name: str, *after: str, last: bool = False) -> Job:
        return Job(name, callables.write, (tmp_path / name, name), after=after, last=last)

    jobs = [
        write("end", last=True),
        write("third", "second", "finished before"),
        write("lost.more", "lost"),
        write("lost", "bad"),
        write("second", "first"),
        Job("bad", callables.fail, ("no",)),
        Job("left", callables.leave_to, ("process 7",)),
        write("waits", "left"),
        write("first"),
    ]
    updates: list[Outcome] = []
    found = {one.name: one for one in run_all(jobs, executor, tmp_path / "logs", parallel=2, on_update=updates.append)}
    assert {path.name for path in tmp_path.iterdir() if path.is_file()} == {"first", "second", "third", "end"}
    assert (found["lost"].state, found["lost"].error) == ("failed", "blocked: needs bad")
    assert (found["lost.more"].state, found["lost.more"].error) == ("failed", "blocked: needs lost")
    assert (found["waits"].state, found["waits"].error) == ("left", "it needs left, which is left to another launcher")
    ended = [update.name for update in updates if update.state != "running"]
    assert sorted(ended) == sorted(job.name for job in jobs) and ended[-1] == "end"
    assert ended.index("first") < ended.index("second") < ended.index("third")
    started = {update.name for update in updates if update.state == "running"}
    assert started == {"first", "second", "third", "bad", "left", "end"}


def test_local_starts_what_can_start_while_other_jobs_still_wait(tmp_path):
    """``far`` needs a quick job only, while a slow one runs at the same time."""
    here, there = tmp_path / "here", tmp_path / "there"
    jobs = [
        Job("slow", callables.meet, (here, there)),
        Job("quick", print),
        Job("far", callables.meet, (there, here), after=("quick",)),
    ]
    assert [outcome.state for outcome in run_all(jobs, "local", tmp_path / "logs", parallel=2)] == ["done"] * 3


def test_a_circle_is_said_before_anything_runs(tmp_path):
    jobs = [Job("a", callables.write, (tmp_path / "a", "x")), Job("b", print, after=("c",)), Job("c", print, after=("b",))]
    with pytest.raises(UserError, match="wait for each other in a circle: b, c"):
        run_all(jobs, "inline", tmp_path / "logs")
    assert not (tmp_path / "a").exists()
