"""What a command line answers to an option that it does not have."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ablations import checkpoints
from ablations import run as ablations
from pretrain import config, export
from pretrain import run as pretrain
from results import report
from rundir.arguments import PROGRAMS, Parser
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
    look.add_argument("--score")
    look.add_argument("--label-fraction", required=True)
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
    "--runs a draw --model vet": "unknown model 'vet'; did you mean --model vit? Choices: vit, resnet",
    "--runs a draw --model x": "unknown model 'x'; set --model to one of vit, resnet",
}


@pytest.mark.parametrize("words", MISTAKES)
def test_a_wrong_option_is_refused_first_and_what_is_like_it_is_named(words):
    with pytest.raises(UserError) as caught:
        parser().parse_args(words.split())
    assert str(caught.value) == MISTAKES[words]


def test_options_may_be_shortened_given_with_a_sign_and_have_values_like_any():
    found = parser().parse_args(["--run=a b", "draw", "--mod", "vit", "--size=-3"])
    assert (found.runs, found.task, found.model, found.size) == ("a b", "draw", "vit", -3)


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
