"""Search in the grid: which jobs there are, that nothing finished is run twice, the table by strategy and the claims."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml

from ablations.jobs import graph
from ablations.run import main
from pretrain import config
from pretrain.models import build
from results.claims.effects import effect
from results.claims.schema import read_claims
from results.frame import load, load_all
from rundir.errors import UserError
from tests.ablations.test_transfers import SETTINGS, short, work_of
from transfer import run

ENTRY = {
    "task": "search",
    "budgets": ["flops=0.3", "flops=0.6 memory=0.9"],
    "images": 48,
    "calibration": 24,
    "neighbours": 5,
    "evaluations": 8,
    "pool": 20,
    "checked": 6,
}
WORDS = [
    "--grid",
    "guidelines",
    "--profile",
    "digits",
    "--only",
    "mse-infonce-online",
    "individual-mse-online-w1.0",
    "--widths",
    "1.0",
    "0.5",
    "--executor",
    "inline",
    "--transfer",
    "all.yaml",
]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("all.yaml").write_text(yaml.safe_dump([ENTRY]))
    return tmp_path


def test_a_search_waits_for_its_training_and_networks_of_one_width_have_none(folder):
    work = work_of(first=WORDS)
    jobs = graph(work.missing, work.runs, Path("runs/guidelines"), work.transfers)
    after = {short(job.name): [short(name) for name in job.after] for job in jobs if job.kind == "search"}
    assert after == {"mse-infonce-online-s100.search-own": ["mse-infonce-online-s100.pretrain"]}
    for job in jobs:
        json.dumps(job.args)  # a ledger can hold it


def test_a_grid_with_searches_is_finished_once_and_reported(folder, capsys):
    assert main([*WORDS, *SETTINGS]) == 0
    assert [one.finished for one in work_of(first=WORDS).transfers] == [True]
    Path("all.yaml").write_text(yaml.safe_dump([ENTRY | {"images": 40}]))
    assert [one.finished for one in work_of(first=WORDS).transfers] == [False]
    frames = load_all("runs")
    own = frames.scores[frames.scores["task"].eq("search")]
    assert set(own["strategy"]) == {"", "uniform", "random", "greedy", "evolutionary", "predictor", "all"}
    assert set(own["budget"]) == {"", "flops=0.3", "flops=0.6 memory=0.9"}
    tables = [path.read_text() for path in Path("runs/guidelines/report").glob("table-search*.md")]
    assert len(tables) == 1 and "greedy slimming" in tables[0] and "flops=0.6 memory=0.9" in tables[0]
    capsys.readouterr()


def test_checkpoints_from_anywhere_are_searched_as_jobs(folder, capsys):
    torch.manual_seed(0)
    content = config.to_dict(config.load("digits", ["data.size=8"]))
    for name in ("one", "two"):
        torch.save({"format": 1, "config": content, "encoder": build("resnet_small").state_dict()}, f"{name}.pt")
    ask = [
        "search",
        "--checkpoint",
        "one.pt",
        "two.pt",
        "--out",
        "others",
        "--budget",
        "flops=0.5",
        "memory_mb=0.9",
        "--images",
        "48",
        "--calibration",
        "24",
        "--neighbours",
        "5",
        "--evaluations",
        "6",
        "--pool",
        "10",
        "--check",
        "0",
        "--executor",
        "inline",
    ]
    with pytest.raises(UserError, match="--format is not for searches as jobs"):
        run.main([*ask, "--format", "none"])
    assert run.main(ask) == 0
    assert "2 checkpoints, 2 jobs, 0 finished, 2 to do" in capsys.readouterr().out
    for name in ("one", "two"):
        report = json.loads(Path(f"others/{name}/search/search.json").read_text())
        assert report["budgets"] == ["flops=0.5 memory_mb=0.9"] and report["ranked"] == 0
    assert run.main(ask) == 0
    assert "2 finished, 0 to do" in capsys.readouterr().out


def claim(**how):
    return read_claims([{"id": "a", "statement": "b", **how}], "guidelines", "here")[0]


def test_claims_compare_strategies_over_budgets_and_read_the_rank_correlation(folder):
    assert main([*WORDS, *SETTINGS]) == 0
    scores = load("runs").assign(variant="")  # as if the options were those of the grid
    picks = json.loads(next(Path("runs").glob("guidelines/mse-infonce-*/search/search.json")).read_text())
    both = [[pick["knn"] for pick in picks["picks"] if pick["strategy"] == name] for name in ("evolutionary", "uniform")]
    found = effect(claim(measure="search", strategy="evolutionary", against="uniform"), scores, None, None)
    assert found.by_seed == {100: pytest.approx(100 * (sum(both[0]) - sum(both[1])) / 2)} and found.metric == "knn"
    rank = effect(claim(measure="search_rank", name="views", minimum=0.8), scores, None, None)
    assert rank.by_seed == {100: pytest.approx(picks["ranks"]["views"])}
    with pytest.raises(LookupError, match="no search with knn of evolutionary and annealing"):
        effect(claim(measure="search", strategy="evolutionary", against="annealing"), scores, None, None)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"neighbours": 50}, "neighbours 50 must be fewer than the 48"),
        ({"score": "accuracy"}, "score=accuracy is not known"),
        ({"budgets": ["speed=2"]}, "unknown cost 'speed'"),
        ({"budgets": ["flops=0.0001"]}, "no sub-network is so small"),
        ({"widths": [2.0]}, "widths"),
        ({"protocol": ["knn"]}, "protocol"),
    ],
)
def test_mistakes_name_entry_and_key(folder, wrong, message):
    Path("all.yaml").write_text(yaml.safe_dump([ENTRY | wrong]))
    with pytest.raises(UserError, match=r"all\.yaml, entry 1 \(search\)") as error:
        work_of(first=WORDS)
    assert message in str(error.value)
