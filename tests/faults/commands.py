"""Command lines that make no sense: one line that says so, exit code 2, and nothing written."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import transfer.run as transfer_run
from ablations import run as ablations_run
from pretrain import config, export
from pretrain import run as pretrain_run
from results import report as results_report
from slurm import status as slurm_status
from tests.faults import damage, ground
from tests.faults.cases import Case, Verdict, refusal, snapshot
from tests.faults.fork import program
from tests.faults.ground import Ground

LIMIT = 60.0  # seconds; a mistake is found before the work
NO_NUMBER = ("abc", "", "nan", "1,5", "½", "0x10", "[1]", "1e", "1 2")
NO_COUNT = (*NO_NUMBER, "inf", "-1", "1.5", "1e30", "99999999999999999999999")
NO_SHARE = (*NO_NUMBER, "inf", "-0.5", "0", "1.5", "1e300")
NO_WORD = ("nothing", "", "KNN ", "../x", "*")
NO_PLACE = ("nowhere/at/all", "", "a-file/below", "x" * 300, "empty", "a-pipe")


@dataclasses.dataclass(frozen=True)
class Command:
    """A command line that is right, and the values of its options that are wrong.

    Attributes:
        begin: what its folder holds, of the ground.
        wrong: by option: values none of which can be meant.
        settings: whether ``key=value`` settings of pretraining may follow.
    """

    name: str
    main: Callable
    argv: list[str]
    begin: str
    wrong: dict[str, tuple[str, ...]]
    settings: bool = False


COMMANDS = (
    Command(
        "pretrain",
        pretrain_run.main,
        ground.TRAIN,
        "",
        {
            "--seed": NO_COUNT,
            "--preset": (*NO_WORD, "empty", "a-file", "a-pipe"),
            "--out": ("", "a-file", "a-file/below", "x" * 300),
        },
        True,
    ),
    Command(
        "classification",
        transfer_run.main,
        ground.EVALUATE,
        "evaluated",
        {
            "--checkpoint": NO_PLACE,
            "--widths": NO_SHARE,
            "--protocol": NO_WORD,
            "--dataset": NO_WORD,
            "--branch": NO_WORD,
            "--label-fraction": NO_SHARE,
            "--label-seed": NO_COUNT,
            "--seed": NO_COUNT,
            "--limit": NO_COUNT,
            "--k": (*NO_COUNT, "0"),
            "--workers": NO_COUNT,
            "--size": (*NO_COUNT, "0"),
            "--batch-size": (*NO_COUNT, "0"),
            "--recipe": NO_WORD,
            "--score": NO_WORD,
            "--device": (*NO_WORD, "cuda:99"),
            "--out": ("", "a-file"),
            "--set": (
                "C",
                "C=abc",
                "C=-1",
                "C=nan",
                "knn=3",
                "linear.epochs=0",
                "linear.lr=inf",
                "linear.milestones=[nan]",
                "=3",
                "C=",
                "linear.crop_scale=[2,3]",
                "linear.flip=7",
                "linear.nothing=1",
            ),
        },
    ),
    Command(
        "detection",
        transfer_run.main,
        ground.DETECT,
        "detected",
        {
            "--checkpoint": NO_PLACE,
            "--widths": NO_SHARE,
            "--dataset": NO_WORD,
            "--data-dir": ("a-file", "a-pipe"),
            "--model": NO_WORD,
            "--schedule": NO_WORD,
            "--iterations": (*NO_COUNT, "0"),
            "--batch-size": (*NO_COUNT, "0"),
            "--initial": NO_WORD,
            "--lr": (*NO_NUMBER, "inf", "-1", "0"),
            "--norm": NO_WORD,
            "--seed": NO_COUNT,
            "--workers": NO_COUNT,
            "--pictures": NO_COUNT,
            "--size": (*NO_COUNT, "0"),
        },
    ),
    Command(
        "segmentation",
        transfer_run.main,
        [
            "segmentation",
            *ground.DETECT[1 : ground.DETECT.index("--set")],
            "--model",
            "fcn",
            "--scale",
            "48",
            "48",
            "--crop",
            "32",
            "32",
        ],
        "detected",
        {
            "--checkpoint": NO_PLACE,
            "--widths": NO_SHARE,
            "--dataset": NO_WORD,
            "--model": NO_WORD,
            "--schedule": NO_WORD,
            "--iterations": (*NO_COUNT, "0"),
            "--lr": (*NO_NUMBER, "inf", "-1"),
            "--inference": NO_WORD,
            "--output-stride": NO_COUNT,
            "--norm": NO_WORD,
            "--seed": NO_COUNT,
            "--pictures": NO_COUNT,
        },
    ),
    Command(
        "label-lists",
        transfer_run.main,
        ["label-lists", "--dataset", "digits", "--fraction", "0.1", "--out", "lists"],
        "",
        {"--dataset": NO_WORD, "--fraction": NO_SHARE, "--seeds": NO_COUNT, "--out": ("", "a-file", "x" * 300)},
    ),
    Command(
        "scenes",
        transfer_run.main,
        ground.SCENES,
        "",
        {
            "--train": (*NO_COUNT, "0"),
            "--size": (*NO_COUNT, "0"),
            "--smallest": NO_COUNT,
            "--most": NO_COUNT,
            "--seed": NO_COUNT,
            "--out": ("", "a-file"),
        },
    ),
    Command(
        "ablations",
        ablations_run.main,
        ground.GRID,
        "",
        {
            "--grid": (*NO_WORD, "a-file"),
            "--profile": (*NO_WORD, "a-file", "a-pipe"),
            "--seeds": (*NO_COUNT, "0", "1,,2", ",", "-1,3"),
            "--widths": NO_SHARE,
            "--only": ("nothing", "", "[", "MSE-*"),
            "--executor": NO_WORD,
            "--parallel": (*NO_COUNT, "0"),
            "--runs": ("", "a-file", "x" * 300),
        },
        True,
    ),
    Command(
        "report",
        results_report.main,
        ground.REPORT,
        "grid",
        {"--runs": ("nowhere/at/all", "a-file", "empty", "a-pipe", "x" * 300), "--out": ("", "a-file", "a-file/below", "x" * 300)},
    ),
    Command(
        "export",
        export.main,
        ["--checkpoint", "run", "--width", "0.5", "--out", "exported", "--format", "safetensors"],
        "evaluated",
        {
            "--checkpoint": NO_PLACE,
            "--width": NO_SHARE,
            "--format": NO_WORD,
            "--branch": NO_WORD,
            "--size": (*NO_COUNT, "0"),
            "--out": ("", "a-file", "x" * 300),
        },
    ),
    Command(
        "status",
        slurm_status.main,
        ["--runs", "runs/guidelines", "--once"],
        "grid",
        {
            "--runs": ("nowhere/at/all", "", "a-file", "empty", "a-pipe"),
            "--every": (*NO_NUMBER, "0", "-1", "inf"),
            "--stalled-minutes": (*NO_NUMBER, "-1", "inf"),
        },
    ),
)


def cases(count: int, base: Ground, rng: random.Random) -> list[Case]:
    """``count`` command lines, the commands in turn."""
    made = []
    for number in range(count):
        command = COMMANDS[number % len(COMMANDS)]
        argv = _wrong(command, rng)
        made.append(Case("wrong command line", f"{number} {command.name} {argv!r}"[:400], _case(command, argv, base)))
    return made


def _case(command: Command, argv: list[str], base: Ground) -> Callable[[Path, random.Random], Verdict]:
    def run(folder: Path, rng: random.Random) -> Verdict:
        if command.begin:
            damage.copy(base.folder / command.begin, folder)
        (folder / "a-file").write_text("this is a file\n")
        (folder / "empty").mkdir()
        (folder / "a-pipe").touch()
        damage.pipe(folder / "a-pipe", rng)
        before = snapshot(folder)
        ended = program(command.main, argv, folder, limit=LIMIT)
        after = snapshot(folder)
        verdict = refusal(ended)
        if verdict.kind == "refused" and after != before:
            changed = sorted(name for name in {*before, *after} if before.get(name) != after.get(name))
            return Verdict.wrong(f"refused, but it wrote {', '.join(changed[:3])}")
        return verdict

    return run


def _wrong(command: Command, rng: random.Random) -> list[str]:
    """A command line with one mistake."""
    ways = [_bad_option] * 5 + [_misspelled, _cut] + ([_bad_setting] * 6 + [_bad_key] * 2 if command.settings else [_surplus])
    return rng.choice(ways)(command, rng)


def _bad_option(command: Command, rng: random.Random) -> list[str]:
    option = rng.choice(list(command.wrong))
    return replaced(command.argv, option, rng.choice(command.wrong[option]))


def replaced(argv: list[str], option: str, value: str) -> list[str]:
    """``argv`` with this value of an option; in one word, so that a value may begin with a minus."""
    kept = list(argv)
    while option in kept:
        start = kept.index(option)
        end = start + 1
        while end < len(kept) and not kept[end].startswith("--") and "=" not in kept[end]:
            end += 1
        del kept[start:end]
    place = 1 if kept and not kept[0].startswith("-") and "=" not in kept[0] else 0  # behind the name of the task
    return [*kept[:place], f"{option}={value}", *kept[place:]]


def _misspelled(command: Command, rng: random.Random) -> list[str]:
    places = [place for place, word in enumerate(command.argv) if word.startswith("--")]
    place = rng.choice(places)
    word = command.argv[place]
    letter = rng.randrange(3, len(word))
    return [*command.argv[:place], word[:letter] + "x" + word[letter:], *command.argv[place + 1 :]]


def _cut(command: Command, rng: random.Random) -> list[str]:
    """The last option without its value."""
    places = [place for place, word in enumerate(command.argv[:-1]) if word.startswith("--") and command.argv[place + 1][0] != "-"]
    place = rng.choice(places)
    rest = command.argv[place + 2 :]
    return [*command.argv[:place], *([] if not rest else rest if rest[0].startswith("--") else []), command.argv[place]]


def _surplus(command: Command, rng: random.Random) -> list[str]:
    return [*command.argv, rng.choice(["--nothing", "--nothing=3", "-z"])]


def _bad_key(command: Command, rng: random.Random) -> list[str]:
    key = rng.choice([name for name, _ in settings()])
    section, _, last = key.rpartition(".")
    word = rng.choice(
        [f"{key}x=1", f"{section}s.{last}=1", f"{last}.{section}.{last}=1", f"{key}.more=1", f".{key}=1", f"{key}.=1"]
    )
    return [*command.argv, word]


def _bad_setting(command: Command, rng: random.Random) -> list[str]:
    key, values = rng.choice(settings())
    return [*(word for word in command.argv if not word.startswith(f"{key}=")), f"{key}={rng.choice(values)}"]


def settings() -> list[tuple[str, tuple[str, ...]]]:
    """Keys of a config with values that none can have, by their types."""
    return list(_settings(config.Config, ""))


def _settings(kind: type, prefix: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    for field in dataclasses.fields(kind):
        name = prefix + field.name
        value = getattr(kind(), field.name)
        if dataclasses.is_dataclass(value):
            if field.name not in ("experiment", "derived"):  # labels; a network that is not trained
                yield from _settings(type(value), f"{name}.")
        elif isinstance(value, bool):
            yield name, ("maybe", "3", "[true]", "", "null", "{a: 1}")
        elif isinstance(value, int):
            yield name, ("abc", "-7", "1.5", "nan", ".inf", "[1]", "{a: 1}", "1e400", "???", "null", "9" * 40, "[1", "true", "\t")
        elif isinstance(value, float):
            yield name, ("abc", "-0.5", "nan", ".inf", "-.inf", "[1]", "{a: 1}", "1e400", "???", "null", "{", "true")
        elif isinstance(value, list):
            yield name, ("abc", "[abc]", "[nan]", "[-1]", "{a: 1}", "[[1]]", "[.inf]", "null", "[1", "3")
        elif name not in ("data.root", "objective.seed_teacher"):
            yield name, ("nothing", "[a]", "{a: 1}", "3", "true", "\t", "a: b: c")
