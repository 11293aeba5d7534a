"""Scores on published data sets and with few labels: what is trained on, what is scored, what records say."""

from __future__ import annotations

import json

import pytest
import torch
from sklearn.metrics import balanced_accuracy_score

from pretrain.checkpoints import open_checkpoint
from pretrain.data import evaluation_batches, load
from pretrain.data.subsets import labelled
from rundir.directory import RunDirectory
from rundir.errors import UserError
from tests.pretrain.published_copies import COPIES, caltech101
from transfer.classification import Options, evaluate, finetune, task
from transfer.classification import linear as linear_evaluation
from transfer.classification.knn import knn_predict
from transfer.classification.options import parse_overrides
from transfer.classification.task import Task
from transfer.run import main

QUICK = ["linear.epochs=1", "finetune.epochs=1"]


@pytest.fixture
def pets(tmp_path, monkeypatch):
    COPIES["pets"](tmp_path / "data", monkeypatch)
    return str(tmp_path / "data")


@pytest.fixture
def trained_on(monkeypatch):
    """The (data set, number of images, recipe) of each training that is run, which trains nothing."""
    calls = []
    for module in (linear_evaluation, finetune):
        monkeypatch.setattr(
            module, "train", lambda classifiers, recipe, source, *rest: calls.append((source.name, len(source), recipe))
        )
    return calls


def test_k_nn_on_pets_is_scored_by_class(run_directory, pets):
    (record,) = evaluate(run_directory, "pets", pets, [0.5], ["knn"])
    assert {name: record[name] for name in ("dataset", "metric", "score", "chance", "count", "label_fraction", "label_seed")} == {
        "dataset": "pets",
        "metric": "knn",
        "score": "mean_per_class",
        "chance": 0.5,
        "count": 3,
        "label_fraction": 1.0,
        "label_seed": None,
    }
    network = open_checkpoint(run_directory)
    train, val = (load("pets", split, pets, 16) for split in ("train", "val"))
    ((x, y),) = evaluation_batches(train, 16, 8, "cpu")
    ((queries, truth),) = evaluation_batches(val, 16, 8, "cpu")
    network.calibrate([0.5], [x[torch.randperm(3, generator=torch.Generator().manual_seed(100))]])
    dense = network.at(0.5)
    with torch.no_grad():
        predicted = knn_predict(dense(x), y, dense(queries), 2, 3)
    assert record["value"] == pytest.approx(balanced_accuracy_score(truth, predicted))


@pytest.mark.parametrize(
    ("name", "score", "images"),
    [
        ("flowers102", "mean_per_class", 6),
        ("dtd", "top1", 6),
        ("aircraft", "mean_per_class", 4),
        ("food101", "top1", 3),
        ("caltech101", "mean_per_class", 90),
    ],
)
def test_every_set_gets_its_recipe_score_and_splits(name, score, images, run_directory, tmp_path, monkeypatch, trained_on):
    {**COPIES, "caltech101": caltech101}[name](tmp_path / "data", monkeypatch)
    linear, tuned = evaluate(run_directory, name, str(tmp_path / "data"), [0.25], ["linear", "finetune"])
    assert linear["score"] == tuned["score"] == score
    assert [call[:2] for call in trained_on] == [(name, images)] * 2
    recipe = trained_on[0][2]
    assert (recipe.lr, recipe.epochs, recipe.batch_size, recipe.flip) == (30, 100, 64, 0.5)  # photographs may be mirrored
    epochs = 100 if name in ("flowers102", "dtd") else 50  # METHOD section 7
    assert linear["settings"]["batch_size"] == 64 and tuned["settings"]["epochs"] == epochs


def test_features_are_computed_once_for_all_protocols(run_directory, pets, monkeypatch):
    calls, extract = [], task.extract_features

    def counting(networks, *rest):
        calls.append(list(networks))
        return extract(networks, *rest)

    monkeypatch.setattr(task, "extract_features", counting)
    evaluate(run_directory, "pets", pets, [1.0, 0.5], ["knn", "linear_fast"])
    assert calls == [[1.0, 0.5]] * 2  # of the training and of the test images


def test_both_scores_of_one_protocol_are_kept(run_directory, pets):
    evaluate(run_directory, "pets", pets, [0.5], ["knn"])
    evaluate(run_directory, "pets", pets, [0.5], ["knn"], options=Options(score="top1"))
    kept = RunDirectory(run_directory).records()
    assert [record["score"] for record in kept] == ["mean_per_class", "top1"]
    assert evaluate(run_directory, "pets", pets, [0.5], ["knn"]) == kept[:1]


def test_few_labels(run_directory, trained_on):
    options = parse_overrides(QUICK, label_fractions=[0.01, 0.1], label_seeds=[3])
    records = evaluate(run_directory, widths=[0.5], protocols=["finetune", "linear"], options=options)
    assert [call[:2] for call in trained_on] == [("digits", 13), ("digits", 130)] * 2
    assert [(r["metric"], r["label_fraction"], r["label_seed"]) for r in records] == [
        ("finetune", 0.01, 3),
        ("finetune", 0.1, 3),
        ("linear", 0.01, 3),
        ("linear", 0.1, 3),
    ]
    assert all(record["count"] == 500 for record in records)
    evaluate(run_directory, widths=[0.5], protocols=["finetune"], options=parse_overrides(QUICK, label_fractions=[0.01, 1.0]))
    assert trained_on[4:] and [call[1] for call in trained_on[4:]] == [13, 1297]
    assert len(RunDirectory(run_directory).records()) == 6  # another seed, and all labels, stand beside
    assert evaluate(run_directory, widths=[0.5], protocols=["finetune", "linear"], options=options) == records
    assert len(trained_on) == 6


def test_the_images_of_the_published_list_are_trained_on(run_directory, monkeypatch):
    seen = []
    monkeypatch.setattr(finetune, "train", lambda classifiers, recipe, source, *rest: seen.append(source))
    evaluate(run_directory, widths=[0.5], protocols=["finetune"], options=Options(label_fractions=[0.01], label_seeds=[5]))
    whole = load("digits", "train", None, 16)
    expected = labelled(whole, 0.01, 5)
    assert torch.equal(seen[0].images, whole.images[expected]) and torch.equal(seen[0].labels, whole.labels[expected])


def test_features_learn_from_the_labelled_images_alone(run_directory):
    """Against scikit-learn on the features of exactly those images."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    options = Options(label_fractions=[0.1], label_seeds=[2])
    probe, nearest = evaluate(run_directory, widths=[0.5], protocols=["linear_fast", "knn"], options=options)
    scored = Task(open_checkpoint(run_directory), None, None, options, torch.device("cpu"))
    scored.prepare([0.5])
    chosen = labelled(scored.train, 0.1, 2)
    train, labels, val = scored.features.train[0.5][chosen], scored.features.train_labels[chosen], scored.features.val[0.5]
    scaler = StandardScaler().fit(train.double())
    model = LogisticRegression(C=1.0, max_iter=2000, tol=1e-8).fit(scaler.transform(train.double()), labels)
    expected = model.score(scaler.transform(val.double()), scored.features.val_labels)
    assert probe["label_fraction"] == nearest["label_fraction"] == 0.1 and probe["label_seed"] == 2
    assert probe["value"] == pytest.approx(expected, abs=0.003)  # an image of 500 may lie on the border
    votes = torch.nn.functional.normalize(val) @ torch.nn.functional.normalize(train).T
    top, which = votes.topk(20, dim=1)
    scores = torch.stack([((top / 0.07).exp() * labels[which].eq(c)).sum(1) for c in range(10)], 1)
    assert nearest["value"] == pytest.approx(float((scores.argmax(1) == scored.features.val_labels).float().mean()), abs=0.003)


def test_few_labels_really_train(run_directory):
    options = parse_overrides(["finetune.epochs=4"], label_fractions=[0.05])
    (record,) = evaluate(run_directory, widths=[0.5], protocols=["finetune"], options=options)
    assert record["settings"]["epochs"] == 4 and 0 <= record["value"] <= 1


def test_records_of_before_are_still_known(run_directory, trained_on):
    """Records without score, share of labels and schedule mean top-1, all labels, step."""
    records = evaluate(run_directory, widths=[0.5], protocols=["linear", "knn"], options=parse_overrides(QUICK))
    path = run_directory / "result.json"
    content = json.loads(path.read_text())
    for record in content["records"]:
        for name in ("score", "label_fraction", "label_seed"):
            del record[name]
        record["settings"].pop("schedule", None)
    path.write_text(json.dumps(content))
    again = evaluate(run_directory, widths=[0.5], protocols=["linear", "knn"], options=parse_overrides(QUICK))
    assert len(trained_on) == 1 and [r["value"] for r in again] == [r["value"] for r in records]
    evaluate(run_directory, widths=[0.5], protocols=["knn"], force=True)
    assert len(RunDirectory(run_directory).records()) == 2  # the new one replaced the old one


# --- the command line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--label-fraction", "0"], "--label-fraction 0 is not a share"),
        (["--label-fraction", "0.1", "--limit", "50"], "both leave out labels"),
        (["--recipe", "cifar10"], "unknown value of --recipe: 'cifar10'"),
        (["--score", "top5"], "unknown value of --score: 'top5'"),
        (["--dataset", "flower102"], "did you mean --dataset flowers102"),
        (["--dataset", "pets"], "data set pets needs to know where it is stored; set --data-dir DIR"),
    ],
)
def test_bad_input_is_one_clear_line(trained, tmp_path, arguments, said):
    with pytest.raises(UserError, match=said) as caught:
        main(["classification", "--checkpoint", str(trained), "--out", str(tmp_path / "out"), *arguments])
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


def test_few_labels_are_fine_tuned_unless_asked_otherwise(run_directory, trained_on, capsys):
    main(
        [
            "classification",
            "--checkpoint",
            str(run_directory),
            "--widths",
            "0.5",
            "--label-fraction",
            "0.01",
            "0.1",
            "--set",
            "finetune.epochs=1",
        ]
    )
    assert [call[1] for call in trained_on] == [13, 130]
    printed = capsys.readouterr().out
    assert "finetune 1 %" in printed and "finetune 10 %" in printed and "top-1 accuracy" in printed


def test_the_table_says_which_score(run_directory, pets, capsys):
    main(["classification", "--checkpoint", str(run_directory), "--widths", "0.5", "--dataset", "pets", "--data-dir", pets])
    assert "mean per-class accuracy in % of 3 images" in " ".join(capsys.readouterr().out.split())


def test_label_lists_command(tmp_path, capsys):
    main(["label-lists", "--dataset", "digits", "--fraction", "0.01", "0.1", "--seeds", "0", "1", "--out", str(tmp_path / "lists")])
    written = capsys.readouterr().out.split()
    assert [path.rsplit("/", 1)[1] for path in written] == [
        f"digits-train-{fraction}-seed{seed}.tsv" for fraction in ("0.01", "0.1") for seed in (0, 1)
    ]
    rows = [line.split("\t") for line in (tmp_path / "lists" / "digits-train-0.01-seed1.tsv").read_text().splitlines()[8:]]
    whole = load("digits", "train", None, 16)
    assert [int(row[0]) for row in rows] == labelled(whole, 0.01, 1)
    assert [row[1] for row in rows] == [str(whole.labels[int(row[0])].item()) for row in rows]
