"""One damaged file in one run directory: the others are reported as before, and what works in that one repairs it or refuses it."""

from __future__ import annotations

import csv
import random
from collections.abc import Callable
from pathlib import Path

import transfer.run as transfer_run
from ablations import run as ablations_run
from pretrain import run as pretrain_run
from results import report as results_report
from slurm import status as slurm_status
from tests.faults import damage, ground
from tests.faults.cases import Case, Verdict, refusal, snapshot
from tests.faults.fork import Ended, program
from tests.faults.ground import Ground, asked
from tests.faults.kills import difference

FILES = {
    "result.json": damage.JSON,
    "status.json": damage.JSON,
    "provenance.json": damage.JSON,
    "metrics.jsonl": damage.LINES,
    "config.yaml": damage.YAML,
    "checkpoint.pt": damage.TORCH,
}
LEFT_OUT = "left out: "  # what a report says of a run that it cannot use
NOT_OF_RUNS = ("report", "logs")  # in a grid's folder


def cases(count: int, base: Ground, rng: random.Random) -> list[Case]:
    """``count`` cases: half of them reports, the others what else reads a run directory."""
    others = (("again", _launched), ("evaluate", _evaluated), ("resume", _resumed), ("status", _looked))
    made = []
    for number in range(count):
        name, try_it = ("report", _reported) if number % 2 else others[number // 2 % len(others)]
        file = rng.choice([one for one in FILES if one != "checkpoint.pt" or name in ("again", "evaluate", "resume")])
        how = rng.choice(FILES[file])
        made.append(Case("damaged directory", f"{number} {name} {file} {how.__name__}", _case(try_it, base, file, how)))
    return made


def _case(try_it: Callable, base: Ground, file: str, how: damage.Damage) -> Callable[[Path, random.Random], Verdict]:
    def run(folder: Path, rng: random.Random) -> Verdict:
        return try_it(folder, rng, base, file, how)

    return run


def _ran(folder: Path) -> list[str]:
    return [str(path) for path in folder.parent.rglob("RAN")]


def _one_run(folder: Path, rng: random.Random) -> Path:
    return rng.choice(sorted(path.parent for path in (folder / "runs" / "guidelines").glob("*/config.yaml")))


def rows(folder: Path, name: str) -> list:
    """The rows of the report's frame that are not of the run ``name``."""
    with open(folder / "report" / "frame.csv", newline="", encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if name not in str(row)]


def _reported(folder: Path, rng: random.Random, base: Ground, file: str, how: damage.Damage) -> Verdict:
    damage.copy(base.grid, folder)
    run = _one_run(folder, rng)
    wanted, whole = rows(base.reported, run.name), asked(ground.of_report, base.reported)
    said = how(run / file, rng)
    others = snapshot(folder / "runs")
    ended = program(results_report.main, ground.REPORT, folder)
    if ended.code != 0:
        return _wrong(said, f"no report of the others, {refusal(ended).why or 'refused'}: {ended.last()}")
    if snapshot(folder / "runs") != others:
        return _wrong(said, "the report changed a run directory")
    if rows(folder, run.name) != wanted:
        return _wrong(said, "other runs are reported otherwise")
    if asked(ground.of_report, folder) != whole and run.name not in ended.out + ended.err:
        return _wrong(said, f"reported otherwise and {run.name} is not named")
    return Verdict("equal", said)


def _launched(folder: Path, rng: random.Random, base: Ground, file: str, how: damage.Damage) -> Verdict:
    """The same launch again: an exit code of 1 names the run that failed."""
    damage.copy(base.grid, folder)
    wanted = asked(ground.of_grid, folder)
    run = _one_run(folder, rng)
    others = _others(run)
    said = how(run / file, rng)
    ended = program(ablations_run.main, ground.GRID, folder)
    if _others(run) != others:
        return _wrong(said, "another run's files were changed")
    if ended.code == 1 and f"failed: {run.name}" in ended.err and "Traceback" not in ended.err:
        return Verdict("refused", said)
    if ended.code == 0 and LEFT_OUT in ended.out + ended.err and run.name in ended.out + ended.err:
        return Verdict("refused", said)  # finished, but the report cannot use it, and says so
    return _judged(said, ended, wanted, lambda: asked(ground.of_grid, folder), folder, file)


def _others(run: Path) -> dict[str, tuple]:
    """What stands in the run directories of the grid but ``run``."""
    return {name: about for name, about in snapshot(run.parent).items() if not name.startswith((run.name, *NOT_OF_RUNS))}


def _evaluated(folder: Path, rng: random.Random, base: Ground, file: str, how: damage.Damage) -> Verdict:
    damage.copy(base.evaluated, folder)
    wanted = asked(_scores, folder)
    said = how(folder / "run" / file, rng)
    ended = program(transfer_run.main, ground.EVALUATE, folder)
    return _judged(said, ended, wanted, lambda: asked(_scores, folder), folder, file)


def _scores(folder: Path) -> list[dict]:
    return ground.records(folder / "run")


def _resumed(folder: Path, rng: random.Random, base: Ground, file: str, how: damage.Damage) -> Verdict:
    """A training that was killed somewhere in its middle."""
    wanted = asked(_trained, base.trained)
    program(pretrain_run.main, ground.TRAIN, folder, kill_at=int(rng.uniform(0.6, 0.98) * base.events))
    if file == "result.json":  # pretraining writes none
        (folder / "run" / file).write_text('{"format": 1, "records": []}')
    elif not (folder / "run" / file).exists():
        return Verdict("equal", f"{file} was not there yet")
    said = how(folder / "run" / file, rng)
    ended = program(pretrain_run.main, ground.TRAIN, folder)
    return _judged(said, ended, wanted, lambda: asked(_trained, folder), folder, file)


def _trained(folder: Path) -> str:
    return ground.digest(folder / "run")


def _looked(folder: Path, rng: random.Random, base: Ground, file: str, how: damage.Damage) -> Verdict:
    damage.copy(base.grid, folder)
    run = _one_run(folder, rng)
    said = how(run / file, rng)
    before = snapshot(folder / "runs")
    ended = program(slurm_status.main, ["--runs", "runs/guidelines", "--all"], folder)
    if snapshot(folder / "runs") != before:
        return _wrong(said, "looking changed something")
    if ended.code == 0 and all(
        path.parent.name in ended.out.replace("\n", "") for path in run.parent.glob("*/checkpoint.pt") if path.parent != run
    ):
        return Verdict("equal", said)
    return _judged(said, ended, "", lambda: "another table", folder, file)


def _judged(said: str, ended: Ended, wanted: str, found: Callable[[], str], folder: Path, file: str) -> Verdict:
    if _ran(folder):
        return _wrong(said, "code in a file was run")
    if ended.code == 0:
        now = found()
        return Verdict("equal", said) if now == wanted else _wrong(said, f"not equal: {difference(wanted, now)}")
    verdict = refusal(ended)
    return verdict if verdict.kind != "WRONG" else _wrong(said, verdict.why)


def _wrong(said: str, why: str) -> Verdict:
    return Verdict.wrong(f"{said}: {why}")
