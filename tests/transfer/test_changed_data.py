"""Images and labels that changed after they were scored never have the old scores; the same at another place keep theirs."""

from __future__ import annotations

import io
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pretrain import config
from pretrain.checkpoints import open_checkpoint
from pretrain.data import fingerprint
from pretrain.identity import identified
from pretrain.training import pretrain
from rundir.directory import RunDirectory
from rundir.errors import UserError
from tests.pretrain import tiny
from transfer.analysis.evaluation import analyse
from transfer.classification import evaluation
from transfer.classification.evaluation import evaluate
from transfer.classification.options import Options
from transfer.search.evaluation import search


def pictures(root: Path, seed: int) -> Path:
    """Two classes that are told apart by their colour."""
    random = np.random.default_rng(seed)
    for split, each in (("train", 12), ("val", 5)):
        for label, name in enumerate(("blue", "red")):
            (root / split / name).mkdir(parents=True)
            for i in range(each):
                pixels = random.integers(0, 60, (8, 8, 3), np.uint8)
                pixels[..., 2 - 2 * label] += 150
                Image.fromarray(pixels).save(root / split / name / f"{i}.png")
    return root


def relabel(folder: Path) -> None:
    """What was blue is red, and the other way round."""
    (folder / "blue").rename(folder / "x")
    (folder / "red").rename(folder / "blue")
    (folder / "x").rename(folder / "red")


@pytest.fixture
def folder(tmp_path):
    return pictures(tmp_path / "colours", 0)


@pytest.fixture
def trained(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("pretrain.training.loop.training_flops", lambda *args: 1.0)
    cfg = tiny.tiny("optimizer.epochs=1", "data.name=folder", f"data.root={folder}", "data.limit=0")
    pretrain(cfg, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def computed(monkeypatch):
    """Widths that were scored, by call of a protocol."""
    calls = []
    whole = evaluation.PROTOCOLS["knn"]
    monkeypatch.setitem(evaluation.PROTOCOLS, "knn", lambda task, widths: calls.append(list(widths)) or whole(task, widths))
    return calls


def scored(run: Path, *more: float, **options) -> list[dict]:
    return evaluate(run, widths=[1.0, *more], protocols=["knn"], **options)


def test_that_data_have_changed_is_said_once_for_all_widths(trained, folder, capsys):
    scored(trained, 0.5)
    relabel(folder / "val")
    capsys.readouterr()
    scored(trained, 0.5)
    said = [line for line in capsys.readouterr().out.splitlines() if "changed" in line]
    assert said == ["colours: its images or labels have changed since 2 of 2 scores were computed; computing these again"]


def test_corrected_labels_are_scored_again_and_their_scores_replace_the_old(trained, folder, computed, capsys):
    (before,) = scored(trained)
    assert before["data"] == fingerprint.of_splits("folder", str(folder)) and "thread" in before["computed_on"]
    assert scored(trained) == [before] and computed == [[1.0]]
    assert "changed" not in capsys.readouterr().out
    relabel(folder / "val")
    (after,) = scored(trained)
    assert computed == [[1.0]] * 2 and after["data"] != before["data"]
    assert after["value"] == pytest.approx(1 - before["value"]) and after["value"] != before["value"]
    said = [line for line in capsys.readouterr().out.splitlines() if "changed" in line]
    assert said == ["colours: its images or labels have changed since 1 of 1 scores were computed; computing these again"]
    assert RunDirectory(trained).records() == [after]
    relabel(folder / "val")
    assert scored(trained)[0]["value"] == before["value"] and len(computed) == 3


def test_only_what_is_asked_for_is_computed_again(trained, folder, computed):
    scored(trained, 0.25)
    relabel(folder / "val")
    scored(trained)
    scored(trained, 0.25)
    assert computed == [[1.0, 0.25], [1.0], [0.25]]
    assert len({r["data"] for r in RunDirectory(trained).records()}) == 1


def test_training_images_that_changed_give_new_batch_norm_statistics_and_say_so(trained, folder, capsys):
    (before,) = scored(trained)
    for i in range(6):
        (folder / f"train/blue/{i}.png").unlink()
    (after,) = scored(trained)
    out = capsys.readouterr().out
    assert "training images have changed since pretraining" in out and after["data"] != before["data"]


def test_images_at_another_place_are_those_of_pretraining(trained, folder, tmp_path, computed):
    (before,) = scored(trained)
    moved = tmp_path / "disk" / "colours"
    shutil.move(folder, moved)
    assert scored(trained, root=str(moved)) == [before] and computed == [[1.0]]


def test_another_folder_of_the_same_name_does_not_replace_the_scores_of_pretrainings_own(trained, folder, tmp_path, computed):
    (before,) = scored(trained)
    other = pictures(tmp_path / "elsewhere" / folder.name, 1)
    with pytest.raises(UserError, match=r"other images than .*colours, which .* but has its name; set --out DIR"):
        scored(trained, dataset="folder", root=str(other))
    assert RunDirectory(trained).records() == [before] and computed == [[1.0]]
    (beside,) = scored(trained, dataset="folder", root=str(other), out=tmp_path / "scores")
    assert beside["data"] != before["data"] and scored(trained) == [before]
    assert scored(trained, root=str(other))[0]["data"] == beside["data"]  # those of pretraining, moved and changed since


def test_another_data_set_of_the_same_name_is_refused_before_anything_is_scored(trained, folder, tmp_path, computed):
    """Its records would pass for those of pretraining, also where there is no score yet, and those of a folder named digits."""
    other = pictures(tmp_path / "elsewhere" / folder.name, 1)
    for way in (evaluate, analyse):
        with pytest.raises(UserError, match=r"holds other images than .*colours, which the scores of this run are of"):
            way(trained, "folder", str(other), [1.0])
    with pytest.raises(UserError, match="holds other images than"):
        search(trained, [], "folder", str(other))
    shards_of(folder, tmp_path / "shards" / folder.name)
    with pytest.raises(UserError, match=r"shards/colours is another data set than .*/colours, which"):
        evaluate(trained, "webdataset", str(tmp_path / "shards" / folder.name), [1.0], ["knn"])
    with pytest.raises(UserError, match="holds other images"):  # and before a grid launches it
        evaluation.check(open_checkpoint(trained), "folder", str(other), [1.0], ["knn"], Options())
    assert not RunDirectory(trained).records() and not computed
    shutil.copytree(folder, tmp_path / "copy" / folder.name)
    assert evaluate(trained, "folder", str(tmp_path / "copy" / folder.name), [1.0], ["knn"])  # the same images
    on_digits = tmp_path / "on-digits"
    pretrain(tiny.tiny("optimizer.epochs=1"), on_digits)
    mine = pictures(tmp_path / "digits", 2)
    with pytest.raises(UserError, match=r"digits is another data set than the data set digits, which"):
        evaluate(on_digits, "folder", str(mine), [1.0], ["knn"])
    assert evaluate(on_digits, "folder", str(mine), [1.0], ["knn"], out=tmp_path / "beside")
    assert evaluate(on_digits, "folder", str(folder), [1.0], ["knn"])[0]["dataset"] == "colours"


def test_scores_of_weights_that_are_gone_go_where_the_run_is_trained_again(trained, folder, capsys, computed):
    """Its checkpoint was lost. The same weights again keep their scores; a reference from random weights has none to lose."""
    before = scored(trained, 0.5)
    reference = {**before[0], "task": "detection", "initial": "random", "settings": {"weights": None}}
    other = {**before[0], "metric": "linear", "settings": {**before[0]["settings"], "weights": "00000000"}}
    unsaid = {**before[0], "metric": "finetune", "settings": {}}
    run = RunDirectory(trained)
    run.add_records([reference, other, unsaid])
    for name in ("status.json", "checkpoint.pt"):
        (trained / name).unlink()
    (trained / "checkpoint.previous.pt").unlink(missing_ok=True)
    capsys.readouterr()
    pretrain(tiny.tiny("optimizer.epochs=1", "data.name=folder", f"data.root={folder}", "data.limit=0"), trained)
    assert "run was trained again: removed 2 scores of the weights that it had before\n" in capsys.readouterr().out
    assert run.records() == [*before, reference]
    assert scored(trained, 0.5) == before and computed == [[1.0, 0.5]]


def shards_of(folder: Path, to: Path) -> None:
    """The same images as shards of the webdataset library."""
    for split in ("train", "val"):
        (to / split).mkdir(parents=True)
        with tarfile.open(to / split / f"{split}-000000.tar", "w") as shard:
            for path in sorted((folder / split).glob("*/*.png")):
                name = f"{path.parent.name}-{path.stem}"
                for suffix, content in (("png", path.read_bytes()), ("cls", path.parent.name.encode())):
                    member = tarfile.TarInfo(f"{name}.{suffix}")
                    member.size = len(content)
                    shard.addfile(member, io.BytesIO(content))


def test_scores_are_shown_where_the_images_are_not_and_it_is_said(trained, folder, capsys, computed):
    (before,) = scored(trained)
    shutil.rmtree(folder)
    assert scored(trained) == [before] and len(computed) == 1
    assert "colours is not there now; these are the scores of when it was" in capsys.readouterr().out


def test_scores_of_an_earlier_version_are_kept_and_it_is_said(trained, capsys, computed):
    (before,) = scored(trained)
    run = RunDirectory(trained)
    run.add_records([{name: entry for name, entry in before.items() if name not in ("data", "computed_on")}])
    assert "data" not in run.records()[0]
    assert scored(trained)[0]["value"] == before["value"] and len(computed) == 1
    assert "--force" in capsys.readouterr().out


def test_the_machine_of_an_evaluation_is_recorded(trained, tmp_path):
    (record,) = scored(trained, out=tmp_path / "scores")
    there = RunDirectory(tmp_path / "scores").provenance()
    assert there["kinds"] == {"evaluation": [record["computed_on"]]}
    own = RunDirectory(trained)
    scored(trained)
    kinds = own.provenance()["kinds"]
    assert set(kinds) == {"pretraining", "evaluation"} and record["computed_on"] == kinds["evaluation"][0]


def test_a_grid_counts_scores_of_its_data_alone(trained, folder):
    from ablations.cell import missing_scores
    from ablations.grid import Run

    cfg = identified(config.from_dict(RunDirectory(trained).read_config()))
    cfg.evaluation.widths, cfg.evaluation.protocols, cfg.evaluation.label_fractions = [1.0], ["knn"], [1.0]
    run = Run("cell", cfg, trained, data=fingerprint.of_splits("folder", str(folder)))
    assert missing_scores(run) == [("knn", 1.0, None, 1.0)]
    scored(trained)
    assert missing_scores(run) == []
    relabel(folder / "val")
    later = Run("cell", cfg, trained, data=fingerprint.of_splits("folder", str(folder)))
    assert missing_scores(later) == [("knn", 1.0, None, 1.0)]
