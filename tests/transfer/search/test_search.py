"""From a real checkpoint to the sub-networks for a budget, and the command line."""

from __future__ import annotations

import json
import re
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from sklearn.neighbors import KNeighborsClassifier

from pretrain import config
from pretrain.checkpoints import open_checkpoint
from pretrain.slimmable import at_width
from pretrain.training import pretrain
from rundir.directory import Busy, RunDirectory
from rundir.errors import UserError
from rundir.subnet import Subnet, parse_width
from tests.transfer.conftest import TINY
from transfer.classification.knn import K, knn_predict
from transfer.run import main
from transfer.search import Budget, Options, evaluation, search
from transfer.search.scoring import Scorer

QUICK = Options(images=64, calibration=32, evaluations=12, pool=30, checked=6)
BUDGETS = [Budget.parse(["flops=0.3"]), Budget.parse(["flops=0.6", "memory_mb=0.6"])]
WORDS = ["search", "--images", "64", "--calibration", "32", "--evaluations", "12", "--pool", "30", "--check", "6"]


@pytest.fixture(scope="module")
def found(trained, tmp_path_factory) -> evaluation.Found:
    return search(trained, BUDGETS, options=QUICK, out=tmp_path_factory.mktemp("found"), formats=["safetensors", "onnx"])


def scorer(trained) -> Scorer:
    return Scorer(open_checkpoint(trained), None, None, QUICK, torch.device("cpu"))


def test_the_report_names_the_best_of_what_was_scored(found):
    report = json.loads((found.folder / "search.json").read_text())
    assert report == found.report and found.fresh
    table = pd.read_csv(found.folder / "subnets.csv")
    pd.testing.assert_frame_equal(table, pd.read_parquet(found.folder / "subnets.parquet"), check_dtype=False)
    assert len(table) == report["scored"] == table["subnet"].nunique()
    full = report["full"]["flops"]
    for text, limit in (("flops=0.3", 0.3), ("flops=0.6 memory_mb=0.6", 0.6)):
        inside = table[table["flops"].le(limit * full) & (table["memory_mb"].le(0.6) | (limit == 0.3))]
        for strategy in ("uniform", "random", "greedy", "evolutionary", "predictor", "all"):
            own = inside if strategy == "all" else inside[inside["strategies"].str.contains(strategy)]
            picks = [pick for pick in report["picks"] if (pick["budget"], pick["strategy"]) == (text, strategy)]
            assert len(picks) == (not own.empty)
            if picks:
                assert picks[0]["score"] == pytest.approx(own["score"].max()) and 0 <= picks[0]["knn"] <= 1
    assert set(report["ranks"]) == {"overlap", "cka", "rankme", "views"} and report["ranked"] == 6
    front = table[table["on_front"]]
    assert front["flops"].is_monotonic_increasing and front["score"].is_monotonic_increasing


def test_records_say_what_each_strategy_found(found):
    records = json.loads((found.folder.parent / "result.json").read_text())["records"]
    assert {record["task"] for record in records} == {"search"} and {record["width"] for record in records} == {1.0}
    picks = {(record["budget"], record["strategy"], record["metric"]): record for record in records if record["strategy"]}
    for pick in found.report["picks"]:
        record = picks[pick["budget"], pick["strategy"], "knn"]
        assert record["value"] == pick["knn"] and record["found"] == pick["subnet"] and record["flops"] == pick["flops"]
        assert picks[pick["budget"], pick["strategy"], "overlap"]["value"] == pick["score"]
    assert {record["metric"] for record in records if not record["strategy"]} <= {
        "rank_overlap",
        "rank_cka",
        "rank_rankme",
        "rank_views",
        "rank_predictor",
    }


def test_a_score_is_that_of_the_network_it_names(trained):
    """By hand: the images through the slimmable network with the statistics of the first batch, neighbours by numpy."""
    one, width = scorer(trained), Subnet((0.5, 0.75, 0.5, 0.25))
    encoder = open_checkpoint(trained).encoder
    first = one.checkpoint.calibrated_features(width, one.images)
    with torch.no_grad(), at_width(encoder, width):
        encoder.train()
        trained_mode = encoder(one.images[0])  # but for the variance's factor n / (n - 1)
    assert torch.allclose(first[:32], trained_mode, rtol=0.02, atol=0.02)
    full = one.checkpoint.calibrated_features(1.0, one.images)

    def near(features):
        unit = features.double().numpy() / np.linalg.norm(features.double().numpy(), axis=1, keepdims=True)
        similarity = unit @ unit.T
        np.fill_diagonal(similarity, -np.inf)
        return np.argsort(-similarity, axis=1)[:, :10]

    expected = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(near(first), near(full), strict=True)])
    assert one.score(width) == pytest.approx(expected, abs=2e-3)
    assert one.all_scores(width)["overlap"] == one.score(width)


def test_the_accuracy_is_that_of_scikit_learn(trained):
    one = scorer(trained)
    images, labels = one.queries
    index, asked = one._features(0.5, one.images, images)
    votes = KNeighborsClassifier(K, metric="cosine", algorithm="brute", weights=lambda distance: np.exp((1 - distance) / 0.07))
    votes.fit(index.numpy(), one.source.labels.numpy())
    assert one.accuracy(0.5) == pytest.approx(votes.score(asked.numpy(), labels.numpy()), abs=1.01 / len(labels))
    assert knn_predict(index, one.source.labels, asked, 10).shape == labels.shape


def test_views_are_of_the_same_images(trained):
    one = scorer(trained)
    assert [sum(map(len, part)) for part in one.views] == [64, 64]
    assert one.all_scores(1.0)["views"] > 2 / 64  # chance is 1 / 64


def test_the_same_search_is_found_again(run_directory):
    first = search(run_directory, BUDGETS, options=QUICK)
    written = {path: path.stat().st_mtime_ns for path in first.folder.iterdir()}
    again = search(run_directory, BUDGETS, options=QUICK)
    assert (first.fresh, again.fresh) == (True, False) and again.report == first.report
    assert {path: path.stat().st_mtime_ns for path in first.folder.iterdir()} == written
    assert search(run_directory, BUDGETS[:1], options=QUICK).fresh
    assert search(run_directory, BUDGETS[:1], options=QUICK, force=True).fresh
    (first.folder / "search.json").write_text("{")
    assert search(run_directory, BUDGETS[:1], options=QUICK).fresh


def test_without_labels_none_are_looked_at(trained, tmp_path):
    report = search(
        trained,
        BUDGETS[:1],
        options=Options(images=64, calibration=32, evaluations=6, strategies=["random"], checked=0),
        out=tmp_path,
    ).report
    assert report["ranked"] == 0 and all(pick["knn"] is None for pick in report["picks"])


# -- exported ---------------------------------------------------------------------------------------------------------------


def test_the_exported_network_has_equal_features_in_onnxruntime(found, trained):
    onnxruntime = pytest.importorskip("onnxruntime")
    checkpoint, one = open_checkpoint(trained), scorer(trained)
    for budget, place in found.report["networks"].items():
        best = next(pick for pick in found.report["picks"] if (pick["budget"], pick["strategy"]) == (budget, "all"))
        folder = found.folder / place
        described = json.loads((folder / "config.json").read_text())
        network = checkpoint.at(parse_width(best["subnet"]), one.task._calibration_images).eval()
        x = one.images[0]
        session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
        features = session.run(None, {"images": x.contiguous().numpy()})[0]
        with torch.no_grad():
            assert torch.allclose(torch.from_numpy(features), network(x), rtol=1e-4, atol=1e-4)
        weights = load_file(folder / "model.safetensors")
        assert (
            sum(tensor.numel() for name, tensor in weights.items() if "running" not in name and "tracked" not in name)
            == best["parameters"]
            == described["parameters"]
        )
        assert described["flops"] == best["flops"]


# -- the command line ---------------------------------------------------------------------------------------------------------


def test_the_command_line_shows_what_was_found(run_directory, capsys):
    words = [*WORDS, "--checkpoint", str(run_directory), "--format", "none"]
    assert main([*words, "--budget", "flops=0.3", "--budget", "flops=0.6", "memory_mb=0.6"]) == 0
    out = capsys.readouterr().out
    report = json.loads((run_directory / "search" / "search.json").read_text())
    shown = "".join(character for character in out if character not in "│ \n")  # names are broken at a terminal's end, not cut
    assert all(pick["subnet"][:8] in shown for pick in report["picks"] if pick["strategy"] == "all") and "…" not in out
    assert "flops=0.6" in out and "Spearman's rho with k-NN accuracy" in out and str(run_directory / "search") in out
    assert {path.name for path in (run_directory / "search").iterdir()} == {
        "search.json",
        "subnets.csv",
        "subnets.parquet",
        "pareto.png",
        "pareto.svg",
        ".lock",
    }
    assert main([*words, "--budget", "flops=0.3", "--budget", "flops=0.6", "memory_mb=0.6"]) == 0
    assert "as searched before" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--budget", "flops=0.001"], "no sub-network is so small; the smallest has flops=0."),
        (["--budget", "latency_ms=0.00001", "memory=0.9"], "no sub-network is so small; the smallest has latency_ms=0."),
        (["--budget", "parameters=10"], "10 is no share of the full network"),
        (["--budget", "parameters=0.01k"], "has parameters="),
        (["--vary", "patches"], "no elastic patches; leave patches out"),
        (["--budget", "speed=2"], "unknown cost 'speed'"),
        (["--neighbours", "64"], "--neighbours 64 must be fewer than the 64 images"),
        (["--vary", "depth"], "no elastic depth"),
        (["--vary", "width", "width"], "--vary ['width', 'width'] names something twice; name it once"),
        (["--evaluations", "3000000000"], "'3000000000' is not a whole number from 4 to 2147483647"),
        (["--budget", "flops=.5", "--budget", "flops=0.50"], "--budget flops=.5 is given twice; leave one of them out"),
        (["--strategies", "annealing"], "unknown value of --strategies: 'annealing'; set --strategies to one of uniform, random"),
        (["--dataset", "mnist"], "mnist"),
    ],
)
def test_what_cannot_be_searched_is_said_and_leaves_nothing(trained, tmp_path, words, message):
    with pytest.raises(UserError) as error:
        main([*WORDS, "--checkpoint", str(trained), "--out", str(tmp_path / "out"), *words])
    assert message in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "out" / "search" / "search.json").exists()


def test_a_network_of_one_width_is_refused(tmp_path):
    pretrain(
        config.load(
            "digits",
            [
                *TINY,
                "widths.min=0.5",
                "widths.max=0.5",
                "objective.distill_loss=none",
                "evaluation.widths=[0.5]",
                "calibration.widths=[0.5]",
            ],
        ),
        tmp_path / "alone",
    )
    with pytest.raises(UserError, match=r"works at width 0\.5 alone, so there is nothing to search"):
        search(tmp_path / "alone", options=QUICK)


def test_what_training_did_not_vary_is_said(tmp_path, capsys):
    """Trained with smaller kernels at full width, and searched by width."""
    words = ["model.arch=resnet_small_elastic", "elastic.vary=[kernel]"]
    pretrain(config.load("digits", [*TINY, *words]), tmp_path / "kernels")
    own = [*WORDS, "--checkpoint", str(tmp_path / "kernels"), "--format", "none", "--strategies", "random", "--budget", "flops=0.8"]
    assert main([*own, "--check", "0", "--vary", "kernel", "--out", str(tmp_path / "trained")]) == 0
    out, err = capsys.readouterr()
    assert "warning" not in out + err
    of_kernels = [*own[: own.index("--budget")], "--vary", "kernel", "--out", str(tmp_path / "small")]
    with pytest.raises(UserError) as caught:
        main(of_kernels)
    told = re.fullmatch(
        r"no --budget is given, and the default flops=0\.15 is too small: no sub-network is so small; "
        r"the smallest has (flops=0\.\d+); set --budget (\1), or a larger one, or add width to --vary",
        str(caught.value),
    )
    assert told and main([*of_kernels, "--budget", told[2], "--check", "0"]) == 0
    capsys.readouterr()
    for again in (False, True):
        assert main([*own, "--check", "0", "--vary", "width", "kernel", "--out", str(tmp_path / "other")]) == 0
        out, err = capsys.readouterr()
        said = "warning: this checkpoint was not trained to vary in width, so the scores"
        assert said in out and err.startswith(said) and ("searched before" in out) == again
    report = json.loads((tmp_path / "other" / "search" / "search.json").read_text())
    assert report["untrained"] == ["width"]
    records = json.loads((tmp_path / "other" / "result.json").read_text())["records"]
    assert all(record["changed"]["untrained"] == ["width"] for record in records)


def test_what_is_missing_is_made_again_and_what_is_of_another_search_goes(trained, tmp_path):
    quick = Options(images=16, calibration=8, evaluations=4, neighbours=3, strategies=["random"], checked=0)

    def made(limit: str, formats=("safetensors",)) -> evaluation.Found:
        return search(trained, [Budget.parse([limit])], options=quick, out=tmp_path, formats=formats)

    assert made("flops=0.5").fresh and not made("flops=0.5").fresh
    for lost in ("networks/flops=0.5/model.safetensors", "pareto.svg", "subnets.csv"):
        (tmp_path / "search" / lost).unlink()
        assert made("flops=0.5").fresh and not made("flops=0.5").fresh and (tmp_path / "search" / lost).exists()
    found = made("flops=0.7")
    assert [path.name for path in (found.folder / "networks").iterdir()] == ["flops=0.7"] and found.report["count"] == 16
    assert made("flops=0.7", ()).fresh and not (found.folder / "networks").exists()


def test_one_search_at_a_time_has_the_folder(run_directory, monkeypatch):
    """A second one is refused before it scores or removes anything; one that waits finds what the first has found."""
    found = search(run_directory, BUDGETS, options=QUICK)
    written = {path: path.stat().st_mtime_ns for path in found.folder.rglob("*")}
    with RunDirectory(found.folder).lock():
        assert not search(run_directory, BUDGETS, options=QUICK).fresh
        with monkeypatch.context() as patched, pytest.raises(Busy, match=r"search is in use by another process; wait for it"):
            patched.setattr(Scorer, "score", lambda *_: pytest.fail("scored"))
            search(run_directory, BUDGETS[:1], options=QUICK)
        assert {path: path.stat().st_mtime_ns for path in found.folder.rglob("*")} == written
    report = (found.folder / "search.json").read_text()
    (found.folder / "search.json").unlink()
    holding = threading.Event()

    def other() -> None:
        with RunDirectory(found.folder).lock():
            holding.set()
            time.sleep(0.5)
            (found.folder / "search.json").write_text(report)

    one = threading.Thread(target=other)
    one.start()
    holding.wait()
    assert not search(run_directory, BUDGETS, options=QUICK, wait=60).fresh
    one.join()


def test_a_search_is_known_after_another_one_of_the_same_run(trained, tmp_path):
    """As two entries of one launch make them: the folder is of the last, and neither is to be made again."""
    budgets, other = [Budget.parse(["flops=0.5"])], [Budget.parse(["flops=0.7"])]
    quick = Options(images=16, calibration=8, evaluations=4, neighbours=3, strategies=["random"], checked=0)

    def is_known(limits: list[Budget], options: Options = quick) -> bool:
        records = RunDirectory(tmp_path).records()
        return evaluation.is_searched(open_checkpoint(trained), None, None, limits, options, tmp_path, records)

    assert not is_known(budgets)
    search(trained, budgets, options=quick, out=tmp_path)
    assert is_known(budgets) and not is_known(other)
    search(trained, other, options=quick, out=tmp_path)
    assert is_known(budgets) and is_known(other)
    assert not is_known(budgets, replace(quick, seed=1)) and not is_known([*budgets, *other])
    run = RunDirectory(tmp_path)
    newer = {**run.records()[0], "task": "classification", "settings": {"weights": "00000000"}}
    run.keep_records(lambda record: False)
    assert is_known(other) and not is_known(budgets)  # by the report alone
    run.add_records([newer])  # trained again since
    assert not is_known(other)


def test_a_damaged_result_is_said_before_anything_is_scored(trained, tmp_path, monkeypatch):
    (tmp_path / "result.json").write_text("{")
    monkeypatch.setattr(Scorer, "score", lambda *_: pytest.fail("scored"))
    with pytest.raises(UserError, match=r"result\.json is not JSON .* remove it"):
        search(trained, BUDGETS, options=QUICK, out=tmp_path)


def test_without_optuna_evolution_says_what_to_install(trained, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    with pytest.raises(UserError, match=r"pip install 'us3l-bench\[search\]'"):
        search(trained, BUDGETS, options=QUICK, out=tmp_path)
    assert not list(Path(tmp_path).rglob("*.json"))


def test_the_latency_is_of_the_network_as_it_is_served(trained):
    """At 8 pixels the last maps are single pixels, of which a BatchNorm without statistics could make nothing."""
    one = Scorer(open_checkpoint(trained), None, None, Options(images=64, calibration=32, size=8), torch.device("cpu"))
    assert 0 < one.latency(Subnet((0.5, 0.75, 0.5, 0.25)), 0.02) < 1000


def test_a_latency_can_be_limited(trained, tmp_path):
    found = search(
        trained,
        [Budget.parse(["latency_ms=1000", "flops=0.5"])],
        out=tmp_path,
        options=Options(images=64, calibration=32, evaluations=6, strategies=["random"], checked=0),
    )
    assert found.report["picks"] and all(0 < pick["latency_ms"] < 1000 for pick in found.report["picks"])
    assert found.report["full"]["latency"] > 0
