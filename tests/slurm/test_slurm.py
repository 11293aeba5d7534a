"""Jobs on a real Slurm (tests/slurm/throwaway.py): what becomes of them, and of those that wait for them, when things go wrong."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from rundir.errors import UserError
from slurm import settings, squeue, status
from slurm.executors import run_all
from slurm.jobs import Job
from slurm.ledger import Ledger
from slurm.overview import overview
from slurm.submit import environment_lines
from tests.slurm import callables

pytestmark = pytest.mark.slurm
ROOT = Path(__file__).resolve().parents[2]
KINDS = {"work": {"time": "5"}, "more": {"time": "5"}, "report": {"time": "5"}}


def cluster_settings(*overrides: str) -> settings.Cluster:
    return settings.load(None, ["signal_seconds=60", *overrides], KINDS)


def launch(jobs, folder: Path, *overrides: str, wait: bool = True) -> dict[str, tuple[str, str]]:
    outcomes = run_all(jobs, "slurm", folder / "logs", cluster=cluster_settings(*overrides), wait=wait)
    return {outcome.name: (outcome.state, outcome.error) for outcome in outcomes}


def rows(folder: Path, **options) -> dict:
    return {row.name: row for row in overview(folder, **options)}


def wait_until(condition, seconds: float = 600):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.2)


def task_of(folder: Path, name: str) -> str:
    return Ledger(folder / "slurm").entries()[name].task


def in_queue(name: str) -> list[str]:
    """Ids of tasks in the queue whose job's name begins with ``name``."""
    said = subprocess.run(["squeue", "-h", "-r", "-o", "%i|%j"], capture_output=True, text=True, check=True).stdout.splitlines()
    return [line.split("|")[0] for line in said if line.split("|")[1].startswith(name)]


@pytest.fixture(scope="module")
def counting(session_cluster, tmp_path_factory):
    """A job that needs longer than its time limit, started before all other tests: the limit is a minute at least."""
    from tests.slurm.conftest import use

    folder = tmp_path_factory.mktemp("counting")
    patch = use(session_cluster)
    launch(
        [Job("count", callables.count, (folder / "n", 50, 1.0), "work", stop=callables.ask_to_stop)],
        folder,
        "work.time=1",
        "signal_seconds=30",
        "extra.nodelist=127.0.0.1",
        wait=False,
    )
    patch.undo()
    return folder


# -- a launch -------------------------------------------------------------------------------------------------------------


def test_a_failure_takes_down_what_needs_it_and_nothing_else(counting, cluster, tmp_path):
    jobs = [
        Job("good", callables.say, ("hello",), "work"),
        Job("bad", callables.fail, ("no such\nthing",), "work"),
        Job("killed", callables.kill_oneself, (), "work"),
        *(
            Job(f"{name}.{i}", callables.write, (tmp_path / f"{name}.{i}", "x"), "more", after=(name,))
            for name in ("good", "bad", "killed")
            for i in range(2)
        ),
        Job("end", callables.write, (tmp_path / "end", "x"), "report", last=True),
    ]
    found = launch(jobs, tmp_path)
    assert found["good"] == found["good.0"] == found["good.1"] == found["end"] == ("done", "")
    assert found["bad"] == ("failed", "ValueError: no such thing")
    assert found["killed"][0] == "failed" and "killed by signal 9" in found["killed"][1]  # which only sacct can know
    assert found["bad.0"] == found["bad.1"] == ("failed", "blocked: needs bad")
    assert found["killed.1"] == ("failed", "blocked: needs killed")
    assert {path.name for path in tmp_path.iterdir() if path.is_file()} == {"good.0", "good.1", "end"}
    log = (tmp_path / "logs" / "good.log").read_text()
    assert "out hello" in log and "err hello" in log and "child hello" in log
    assert "Traceback" in (tmp_path / "logs" / "bad.log").read_text()


def test_retry_submits_what_failed_and_what_waited_for_it(cluster, tmp_path, capsys):
    jobs = [
        Job("first", callables.wait_for, (str(tmp_path / "go"), 0), "work"),
        Job("fine", callables.say, ("x",), "work"),
        Job("second", callables.write, (str(tmp_path / "second"), "x"), "more", after=("first",)),
    ]
    found = launch(jobs, tmp_path)
    assert found["first"][0] == found["second"][0] == "failed" and found["fine"][0] == "done"
    (tmp_path / "go").touch()
    fine = task_of(tmp_path, "fine")
    assert status.main(["--runs", str(tmp_path), "retry"]) == 0
    wait_until(lambda: rows(tmp_path)["second"].state == "done")
    assert rows(tmp_path)["first"].state == "done" and task_of(tmp_path, "fine") == fine
    assert status.main(["--runs", str(tmp_path), "retry"]) == 0
    assert "nothing to retry" in capsys.readouterr().out
    assert status.main(["--runs", str(tmp_path), "logs", "first"]) == 0
    assert "TimeoutError" in capsys.readouterr().out


def test_what_slurm_refuses_is_said_in_one_line_and_nothing_is_submitted(cluster, tmp_path):
    jobs = [Job("a", callables.say, ("x",), "work"), Job("b", callables.say, ("x",), "more")]
    with pytest.raises(UserError, match=r"refuses the more jobs: .*[Ii]nvalid partition") as caught:
        launch(jobs, tmp_path, "more.partition=nowhere")
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="refuses the work jobs"):
        launch(jobs, tmp_path, "work.nodes=3")
    assert in_queue(tmp_path.name) == [] and Ledger(tmp_path / "slurm").entries() == {}


def test_two_launchers_at_once_submit_every_job_once(cluster, tmp_path):
    script = textwrap.dedent(f"""
        from pathlib import Path
        from slurm.executors import run_all
        from slurm.jobs import Job
        from tests.slurm import callables
        from tests.slurm.test_slurm import cluster_settings
        folder = Path({str(tmp_path)!r})
        jobs = [Job(f"job{{i}}", callables.say, ("x",), "work") for i in range(20)]
        jobs += [Job(f"job{{i}}.more", callables.say, ("x",), "more", after=(f"job{{i}}",)) for i in range(20)]
        jobs += [Job("end", callables.say, ("x",), "report", last=True)]
        submitted = []
        run_all(jobs, "slurm", folder / "logs", on_update=submitted.append, cluster=cluster_settings("extra.hold=true"), wait=False)
        print(len(submitted))
    """)
    launchers = [subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert sorted(int(launcher.communicate(timeout=600)[0]) for launcher in launchers) == [0, 41]
    assert len(in_queue(tmp_path.name)) == 41
    assert status.main(["--runs", str(tmp_path), "cancel"]) == 0
    wait_until(lambda: not in_queue(tmp_path.name))
    assert {row.state for row in rows(tmp_path).values()} <= {"cancelled", "blocked"}


def test_jobs_of_a_launcher_that_died_while_submitting_do_not_run_beside_those_of_the_next(cluster, tmp_path):
    script = textwrap.dedent(f"""
        import os, signal
        from pathlib import Path
        from slurm.jobs import Job
        from slurm import batch
        from tests.slurm import callables
        from tests.slurm.test_slurm import launch
        submit = batch.sbatch
        def die(path, text, *more):
            submit(path, text, *more)
            if not more:  # not the question whether Slurm would take it
                os.kill(os.getpid(), signal.SIGKILL)
        batch.sbatch = die
        launch([Job("a", callables.say, ("x",), "work")], Path({str(tmp_path)!r}), wait=False)
    """)
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT).returncode == -signal.SIGKILL
    assert len(in_queue(tmp_path.name)) == 1
    assert launch([Job("a", callables.say, ("x",), "work")], tmp_path) == {"a": ("done", "")}
    wait_until(lambda: in_queue(tmp_path.name) == [])
    assert (tmp_path / "logs" / "a.log").read_text().count("out x") == 1


@pytest.mark.parametrize("name", ["my runs", 'it\'s "here"', "Läufe 実験", "$HOME;[a]{b}*&~!"])
def test_any_name_of_a_folder_will_do(name, cluster, tmp_path):
    folder = tmp_path / name
    assert launch([Job("a", callables.say, ("x",), "work")], folder) == {"a": ("done", "")}
    assert "out x" in (folder / "logs" / "a.log").read_text()
    assert next((folder / "slurm" / "submitit").glob("*_0_0_log.out")).is_file()


@pytest.mark.parametrize("name", ["runs %j", "100%", "two\nlines", "back\\slash"])
def test_a_name_that_slurm_would_expand_is_refused_unless_the_calls_go_elsewhere(name, cluster, tmp_path):
    folder = tmp_path / name
    with pytest.raises(UserError, match="choose another folder") as caught:
        launch([Job("a", callables.say, ("x",), "work")], folder)
    assert "\n" not in str(caught.value) and not folder.exists()
    assert launch([Job("a", callables.say, ("x",), "work")], folder, f"scratch={tmp_path}/scratch") == {"a": ("done", "")}
    assert "out x" in (folder / "logs" / "a.log").read_text()


def test_a_users_variables_change_only_what_was_left_open(cluster, tmp_path, monkeypatch):
    for variable, value in (
        ("SBATCH_PARTITION", "alt"),
        ("SBATCH_TIMELIMIT", "7"),
        ("SBATCH_WAIT", "1"),
        ("SBATCH_EXPORT", "NONE"),
        ("SBATCH_JOB_NAME", "mine"),
        ("SBATCH_ARRAY_INX", "0-9"),
        ("SBATCH_CLUSTERS", "elsewhere"),
    ):
        monkeypatch.setenv(variable, value)
    settings_of = cluster_settings("work.partition=main", "extra.hold=true")
    assert environment_lines(settings_of, ["more", "work"]) == [
        "SBATCH_EXPORT=NONE of the environment applies to the more, work jobs",
        "SBATCH_PARTITION=alt of the environment applies to the more jobs; set --slurm partition=... to choose",
    ]
    jobs = [Job("a", callables.say, ("x",), "work"), Job("b", callables.say, ("x",), "more")]
    launch(jobs, tmp_path, "work.partition=main", "extra.hold=true", wait=False)
    said = subprocess.run(["squeue", "-h", "-r", "-o", "%j %P %l"], capture_output=True, text=True, check=True).stdout
    assert sorted(line for line in said.splitlines() if line.startswith(tmp_path.name)) == [
        f"{tmp_path.name}.more alt 5:00",
        f"{tmp_path.name}.work main 5:00",
    ]
    assert status.main(["--runs", str(tmp_path), "cancel"]) == 0


def test_a_job_finds_its_modules_though_the_environment_does_not_travel(cluster, tmp_path, monkeypatch):
    monkeypatch.setenv("SBATCH_EXPORT", "NONE")
    assert launch([Job("a", callables.say, ("x",), "work")], tmp_path) == {"a": ("done", "")}


def test_no_variable_hides_a_job(cluster, tmp_path, monkeypatch):
    told = {
        "SQUEUE_FORMAT": "%A",
        "SQUEUE_STATES": "COMPLETED",
        "SQUEUE_USERS": "nobody",
        "SQUEUE_SORT": "x",
        "SQUEUE_PARTITION": "alt",
        "SACCT_FORMAT": "User",
        "SLURM_TIME_FORMAT": "relative",
        "SLURM_CLUSTERS": "elsewhere",
        "SLURM_BITSTR_LEN": "3",
        "SCANCEL_STATE": "PENDING",
        "SCANCEL_USER": "nobody",
        "LOGNAME": "nobody",
        "USER": "nobody",
    }
    for variable, value in told.items():
        monkeypatch.setenv(variable, value)
    jobs = [Job(f"j{i}", callables.say, ("x",), "work") for i in range(9)]
    launch(jobs, tmp_path, "extra.hold=true", wait=False)
    assert {row.state for row in rows(tmp_path).values()} == {"pending"} and len(rows(tmp_path)) == 9
    assert status.main(["--runs", str(tmp_path), "cancel"]) == 0
    wait_until(lambda: {row.state for row in rows(tmp_path).values()} == {"cancelled"})


# -- cancelled, hung, lost -------------------------------------------------------------------------------------------------


def test_a_cancelled_job_saves_and_stays_cancelled_until_it_is_tried_again(cluster, tmp_path):
    jobs = [Job("count", callables.count, (str(tmp_path / "n"), 8, 0.5), "work", stop=callables.ask_to_stop)]
    launch(jobs, tmp_path, wait=False)
    wait_until((tmp_path / "n").exists)
    assert status.main(["--runs", str(tmp_path), "cancel", "count"]) == 0
    wait_until(lambda: rows(tmp_path)["count"].state == "cancelled")
    assert "received SIGTERM" in (tmp_path / "logs" / "count.log").read_text()
    left = int((tmp_path / "n").read_text())
    assert left < 8
    assert status.main(["--runs", str(tmp_path), "retry"]) == 0
    wait_until(lambda: rows(tmp_path)["count"].state == "done")
    assert (tmp_path / "n").read_text() == "8"


def test_a_hung_job_is_found_by_its_silence_and_tried_again(cluster, tmp_path):
    directory = tmp_path / "run"
    launch([Job("hangs", callables.hang_once, (str(directory), 300), "work", directory=directory)], tmp_path, wait=False)
    wait_until((directory / "status.json").exists)
    time.sleep(2)
    assert rows(tmp_path)["hangs"].state == "running"  # it had no time yet to say anything
    row = rows(tmp_path, stalled_minutes=0.01)["hangs"]
    assert (row.state, row.epoch, row.epochs, row.rate) == ("stalled", 3, 9, 55.0) and row.where.startswith("127.0.0.")
    assert status.main(["--runs", str(tmp_path), "--stalled-minutes", "0.01", "retry"]) == 0
    wait_until(lambda: rows(tmp_path)["hangs"].state == "done")


def test_a_lost_node_costs_no_job(counting, cluster, tmp_path):
    assert cluster.ask("scontrol", "update", "NodeName=127.0.0.1", "State=DRAIN", "Reason=test") is not None
    launch([Job("survivor", callables.survive_one_node, (tmp_path / "here", 300), "work")], tmp_path, wait=False)
    wait_until((tmp_path / "here").exists)
    assert (tmp_path / "here").read_text() == "127.0.0.2"
    cluster.ask("scontrol", "update", "NodeName=127.0.0.1", "State=RESUME")
    cluster.kill_node("127.0.0.2")
    try:
        wait_until(lambda: rows(tmp_path)["survivor"].state == "done")
        row = rows(tmp_path)["survivor"]
        assert (row.where, row.restarts) == ("127.0.0.1", 1)
    finally:
        cluster.start_node("127.0.0.2")
        wait_until(cluster._all_up)


def test_without_accounting_a_dead_job_is_found_all_the_same(bare_cluster, tmp_path):
    jobs = [
        Job("killed", callables.kill_oneself, (), "work"),
        Job("good", callables.say, ("x",), "work"),
        Job("after", callables.say, ("x",), "more", after=("killed",)),
        Job("end", callables.say, ("x",), "report", last=True),
    ]
    assert squeue.accounted(["1"]) is None
    found = launch(jobs, tmp_path)
    assert found["good"] == found["end"] == ("done", "")
    assert found["killed"][0] == found["after"][0] == "failed"
    wait_until(lambda: task_of(tmp_path, "killed") not in squeue.queue([task_of(tmp_path, "killed").split("_")[0]]))
    gone = rows(tmp_path)
    assert gone["killed"].state == "dead" and "left the queue" in gone["killed"].why
    assert gone["after"].state == "blocked" and gone["after"].why == "needs killed"
    assert status.main(["--runs", str(tmp_path), "--all"]) == 0


def test_from_another_machine_the_files_tell(cluster, tmp_path, monkeypatch):
    """One that shares the disk but has no Slurm."""
    launch([Job("good", callables.say, ("x",), "work"), Job("bad", callables.fail, ("why",), "work")], tmp_path)
    launch([Job("held", callables.say, ("x",), "work")], tmp_path, "extra.hold=true", wait=False)
    monkeypatch.setattr(squeue, "available", lambda: False)
    found = rows(tmp_path)
    assert {name: row.state for name, row in found.items()} == {"good": "done", "bad": "failed", "held": "pending"}
    assert found["bad"].why == "ValueError: why"
    monkeypatch.undo()
    squeue.cancel([task_of(tmp_path, "held")])


# -- disks ----------------------------------------------------------------------------------------------------------------


def test_a_full_disk_is_the_reason_given(cluster, tmp_path):
    """Files of the job cannot grow beyond 64 KiB, as on a full disk."""
    found = launch([Job("fills", callables.fill, (tmp_path / "big", 10**6, 2**16), "work")], tmp_path)
    assert found == {"fills": ("failed", "OSError: [Errno 27] File too large")}


@pytest.fixture
def small_disk(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


def test_a_job_on_a_disk_that_is_really_full_is_found_failed(cluster, small_disk):
    jobs = [Job("fills", callables.fill, (small_disk / "big", 10**6), "work")]
    state, error = launch(jobs, small_disk)["fills"]
    assert state == "failed" and ("No space left" in error or "ended without saying why" in error)


def test_nothing_is_submitted_from_a_read_only_directory(cluster, small_disk):
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(OSError) as caught:
        launch([Job("a", callables.say, ("x",), "work")], small_disk)
    assert caught.value.errno == errno.EROFS and in_queue("disk") == []


# -- processes ------------------------------------------------------------------------------------------------------------


def test_processes_know_their_ranks_and_gpus(cluster, tmp_path):
    assert launch(
        [Job("ranks", callables.write_ranks, (tmp_path,), "work")], tmp_path, "work.nodes=2", "work.gpus=2", "work.cpus=3"
    )["ranks"] == ("done", "")
    said = [dict(line.split("=", 1) for line in (tmp_path / f"rank{i}").read_text().splitlines()) for i in range(4)]
    assert [(one["LOCAL_RANK"], one["SLURMD_NODENAME"]) for one in said] == [
        ("0", "127.0.0.1"),
        ("1", "127.0.0.1"),
        ("0", "127.0.0.2"),
        ("1", "127.0.0.2"),
    ]
    assert {one["WORLD_SIZE"] for one in said} == {"4"} and {one["MASTER_ADDR"] for one in said} == {"127.0.0.1"}
    assert len({one["MASTER_PORT"] for one in said}) == 1
    assert {one["CUDA_VISIBLE_DEVICES"] for one in said} == {"0,1"} and {one["SLURM_CPUS_PER_TASK"] for one in said} == {"3"}
    assert (tmp_path / "logs" / "ranks.rank3.log").exists()


def test_a_job_that_needs_longer_than_its_time_limit_goes_on_from_where_it_was(counting, cluster):
    wait_until(lambda: rows(counting)["count"].state == "done")
    row = rows(counting)["count"]
    assert (counting / "n").read_text() == "50"
    log = (counting / "logs" / "count.log").read_text()
    assert row.restarts >= 1 and log.count("received SIGUSR2") == row.restarts == log.count("queued again")


def test_a_job_that_is_queued_again_too_often_has_failed(cluster, tmp_path):
    launch(
        [Job("count", callables.count, (tmp_path / "n", 500, 0.2), "work", stop=callables.ask_to_stop)],
        tmp_path,
        "requeues=0",
        wait=False,
    )
    wait_until((tmp_path / "n").exists)
    subprocess.run(["scancel", "--signal=USR2", task_of(tmp_path, "count")], check=True)
    wait_until(lambda: rows(tmp_path)["count"].state == "failed")
    assert "which is the limit" in rows(tmp_path)["count"].why
    assert os.path.exists(tmp_path / "logs" / "count.log")
