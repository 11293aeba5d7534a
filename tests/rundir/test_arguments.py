"""What a command line answers to an option that it does not have."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ablations import checkpoints
from ablations import run as ablations
from pretrain import config, export
from pretrain import run as pretrain
from results import report
from rundir.arguments import PROGRAMS, Parser, place, real
from rundir.errors import UserError
from slurm import status
from transfer import run as transfer


def parser() -> Parser:
    """A program ``p`` with an option and two tasks, and settings of one of these."""
    own = Parser("p")
    own.add_argument("--runs", required=True)
    tasks = own.add_subparsers(dest="task", metavar="TASK", required=True)
    draw, look = tasks.add_parser("draw"), tasks.add_parser("look")
    draw.add_argument("--model", choices=["vit", "resnet"])
    draw.add_argument("--size", type=int)
    draw.add_argument("--widths", type=float, nargs="+")
    draw.add_argument("--quick", action="store_true")
    draw.add_argument("--kinds", nargs="+", choices=["red", "blue"])
    look.add_argument("--score")
    look.add_argument("--label-fraction", required=True)
    look.add_argument("--set", nargs="+", metavar="KEY=VALUE")
    look.settings = ["--set sgd.epochs", "--set adam.epochs"]
    return own


MISTAKES = {
    "--rums a draw": "p has no option --rums; did you mean --runs?",
    "-runs a draw": "p has no option -runs; did you mean --runs?",
    "--runs a --size 3 draw": "p has no option --size; it is an option of p draw",
    "--runs a draw --sizes 3": "p draw has no option --sizes; did you mean --size?",
    "--runs a draw --score=a": "p draw has no option --score; it is an option of p look",
    "--runs a draw --scores a": "p draw has no option --scores; did you mean --score of p look?",
    "--runs a draw --vit": "p draw has no option --vit; did you mean --model vit?",
    "--runs a look --vit": "p look has no option --vit; did you mean --model vit of p draw?",
    "draw --runs a": "p draw has no option --runs; it is an option of p, before draw",
    "--runs a look --epochs 1": "p look has no option --epochs; did you mean --set sgd.epochs=VALUE or --set adam.epochs=VALUE?",
    "--runs a look --grid x": "p look has no option --grid; it is an option of ablations/run.py",
    "--runs a look --labels-fraction x": "p look has no option --labels-fraction; did you mean --label-fraction?",
    "--runs a look --wxyz": "p look has no option --wxyz; p look --help shows all options",
    "--runs a drow --size 3": "unknown TASK 'drow'; did you mean draw? Choices: draw, look",
    "--runs a draw --model vet": "unknown value of --model: 'vet'; did you mean --model vit? Choices: vit, resnet",
    "--runs a draw --model x": "unknown value of --model: 'x'; set --model to one of vit, resnet",
    "--runs a look --sgd.epochs 1": "p look has no option --sgd.epochs; did you mean --set sgd.epochs=VALUE?",
    "--runs a look b": "p look: 'b' belongs to no option; did you mean --label-fraction b?",
    "--runs a look --label-f 1 b": "p look: 'b' belongs to no option; p look --help shows all options",
    "--runs a look sgd.epochs=1": "p look: 'sgd.epochs=1' belongs to no option; did you mean --set sgd.epochs=1?",
    "--runs a look sgd.epochs 1": "p look: 'sgd.epochs' belongs to no option; did you mean --set sgd.epochs=VALUE?",
    "--runs a look epochs=1": "p look: 'epochs=1' belongs to no option; did you mean --set sgd.epochs=1 or --set adam.epochs=1?",
    "--runs a look size=1": "p look: 'size=1' belongs to no option; a setting is given as --set KEY=VALUE",
    "--runs a look --score=x label_fraction=1": "p look: 'label_fraction=1' belongs to no option; did you mean --label-fraction 1?",
    "--runs a draw size=3": "p draw: 'size=3' belongs to no option; did you mean --size 3?",
    "--runs a draw quick=1": "p draw: 'quick=1' belongs to no option; did you mean --quick?",
    "--runs a draw --quick vit": "p draw: 'vit' belongs to no option; did you mean --model vit?",
    "--runs a draw --widths .5 1 size=3": "p draw: 'size=3' belongs to no option; did you mean --size 3?",
    "--runs a draw --size 3 4": "p draw: '4' belongs to no option; p draw --help shows all options",
    "--runs a draw --kinds red,blue": "--kinds red,blue: several have spaces between them; did you mean --kinds red blue?",
    "--runs a draw --model vit,resnet": "unknown value of --model: 'vit,resnet'; did you mean --model resnet? Choices: vit, resnet",
    "a": "p: 'a' belongs to no option; did you mean --runs a?",
    "runs=a draw": "unknown TASK 'runs=a'; set TASK to one of draw, look",
}


@pytest.mark.parametrize("words", MISTAKES)
def test_a_wrong_option_is_refused_first_and_what_is_like_it_is_named(words):
    with pytest.raises(UserError) as caught:
        parser().parse_args(words.split())
    assert str(caught.value) == MISTAKES[words]


def test_options_may_be_shortened_given_with_a_sign_and_have_values_like_any():
    found = parser().parse_args(["--run=a b", "draw", "--mod", "vit", "--size", "-3", "--widths", "-1", "2"])
    assert (found.runs, found.task, found.model, found.size, found.widths) == ("a b", "draw", "vit", -3, [-1, 2])
    found = parser().parse_args(["--runs", "a=b", "look", "--set", "size=1", "sgd.epochs=2", "--label-fraction", "sgd.epochs=3"])
    assert (found.runs, found.set, found.label_fraction) == ("a=b", ["size=1", "sgd.epochs=2"], "sgd.epochs=3")


def test_files_may_be_called_like_settings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = Parser("p")
    own.add_argument("--runs", nargs="+", type=place)
    with pytest.raises(UserError, match=r"^p: 'lr=2' belongs to no option"):
        own.parse_args(["--runs", "a", "lr=2"])
    (tmp_path / "lr=2").mkdir()
    assert own.parse_args(["--runs", "a", "lr=2"]).runs == [Path("a"), Path("lr=2")]


@pytest.mark.parametrize(
    ("words", "message"),
    {
        "size=3": "p: 'size=3' belongs to no option; did you mean --size 3?",
        "--set sgd.lr=1": "p has no option --set; leave it out: settings are words of their own, such as optimizer.epochs=20",
        "sgd.lr 1": "p: 'sgd.lr' belongs to no option; did you mean sgd.lr=VALUE?",
        "--sgd.lr=1": "p has no option --sgd.lr; did you mean sgd.lr=VALUE?",
    }.items(),
)
def test_settings_that_are_words_of_their_own(words, message):
    own = Parser("p", ["sgd.lr", "seed"])
    own.add_argument("--size", type=int)
    own.add_argument("--seed", type=int)
    found, settings = own.parse_with_settings(["sgd.lr=1", "--size", "3", "seed=2", "other=4"])
    assert (found.size, found.seed, settings) == (3, None, ["sgd.lr=1", "seed=2", "other=4"])
    with pytest.raises(UserError) as caught:
        own.parse_with_settings(words.split())
    assert str(caught.value) == message


@given(st.text("abcdefghijklmnopqrstuvwxyz-", min_size=1, max_size=12))
def test_any_other_option_is_one_line_that_names_it(word):
    name = f"--x{word}"
    with pytest.raises(UserError, match=f"^p look has no option {name}; .+") as caught:
        parser().parse_args(["--runs", "a", "look", name, "3"])
    assert "\n" not in str(caught.value)


def test_programs_have_the_options_they_are_said_to_have():
    jobs = transfer.parser(checkpoints._add_arguments)
    parsers = {
        "pretrain/run.py": [pretrain.parser()],
        "pretrain/export.py": [export.parser()],
        "transfer/run.py": list(transfer.parser().tasks.values()),
        "transfer/run.py TASK --executor auto": list(jobs.tasks.values()),
        "ablations/run.py": [ablations.parser()],
        "results/report.py": [report.parser()],
        "slurm/status.py": [status.parser(), *status.parser().tasks.values()],
    }
    for program, options in PROGRAMS.items():
        assert set(options.split()) <= {option for one in parsers[program] for option in one.options}, program


def test_settings_that_are_suggested_are_settings():
    load = config.to_dict(config.load("digits", []))
    for key in config.KEYS:
        section, _, name = key.rpartition(".")
        assert name in (load[section] if section else load), key


def test_what_a_number_may_be_is_said_in_words():
    for limits, wrong, said in (
        ({"above": True}, "0", "'0' is not a number above 0"),
        ({"above": True, "high": 86400.0}, "x", "'x' is not a number above 0 and at most 86400"),
        ({}, "-1", "'-1' is not a number from 0 on"),
        ({"low": 0.5, "high": 2.0}, "3", "'3' is not a number from 0.5 to 2.0"),
    ):
        with pytest.raises(argparse.ArgumentTypeError) as caught:
            real(**limits)(wrong)
        assert str(caught.value) == said
