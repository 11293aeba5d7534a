"""A run directory, its checkpoint and the user's own images belong together: others are refused, moved ones are recognised."""

from __future__ import annotations

import dataclasses
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pretrain import config, identity, run
from pretrain.checkpoints import files as checkpoint
from pretrain.training import pretrain
from rundir.cli import cli
from rundir.directory import RunDirectory
from rundir.errors import UserError
from tests.pretrain import tiny

SHORT = ("optimizer.epochs=1", "data.limit=16")


@pytest.fixture(autouse=True)
def uncounted(monkeypatch):
    monkeypatch.setattr("pretrain.training.loop.training_flops", lambda *args: 1.0)


@pytest.fixture
def folder(tmp_path):
    return pictures(tmp_path / "pictures")


def pictures(root: Path, seed: int = 0) -> Path:
    random = np.random.default_rng(seed)
    for split in ("train", "val"):
        for name in ("a", "b"):
            (root / split / name).mkdir(parents=True)
            for i in range(8):
                Image.fromarray(random.integers(0, 255, (8, 8, 3), np.uint8)).save(root / split / name / f"{i}.png")
    return root


def own(root: Path, *more: str) -> config.Config:
    return identity.identified(tiny.tiny(*SHORT, "data.name=folder", f"data.root={root}", *more))


def trained(cfg: config.Config, directory: Path) -> Path:
    pretrain(cfg, directory)
    assert RunDirectory(directory).status()["state"] == "done"
    return directory


def refused(cfg: config.Config, directory: Path) -> str:
    """The line with which training of ``cfg`` is refused; nothing in ``directory`` has changed but its state."""

    def content() -> dict[str, bytes]:
        return {p.name: p.read_bytes() for p in directory.iterdir() if p.is_file() and p.name not in ("status.json", ".lock")}

    before = content()
    with pytest.raises(UserError) as caught:
        pretrain(cfg, directory)
    assert content() == before and "\n" not in str(caught.value)
    return str(caught.value)


# -- the user's own images ------------------------------------------------------------------------------------------------


def test_two_data_sets_are_two_experiments_and_a_moved_one_is_the_same(folder, tmp_path):
    here = config.config_hash(own(folder))
    assert config.config_hash(own(folder)) == here
    moved = tmp_path / "elsewhere" / "pictures"
    shutil.copytree(folder, moved)
    assert config.config_hash(own(moved)) == here
    assert config.config_hash(own(pictures(tmp_path / "other", seed=1))) != here
    (moved / "train/a/0.png").rename(moved / "train/b/9.png")
    assert config.config_hash(own(moved)) != here


def test_validation_images_do_not_make_another_network(folder):
    before = own(folder)
    (folder / "val/a/0.png").unlink()
    assert own(folder) == before


def test_bundled_data_are_named_as_before():
    cfg = tiny.tiny()
    assert identity.identified(cfg) is cfg and cfg.data.fingerprint == ""


def test_images_that_cannot_be_seen_from_here_leave_the_config_as_it_is(folder, tmp_path):
    unseen = tiny.tiny(*SHORT, "data.name=folder", f"data.root={tmp_path / 'elsewhere'}")
    assert identity.identified(unseen) is unseen
    told = tiny.tiny(
        *SHORT, "data.name=folder", f"data.root={tmp_path / 'elsewhere'}", f"data.fingerprint={own(folder).data.fingerprint}"
    )
    assert config.config_hash(identity.identified(told)) == config.config_hash(own(folder))


def test_a_fingerprint_that_is_not_that_of_the_images_is_refused(folder):
    with pytest.raises(UserError, match=r"data\.fingerprint=f0123 is not that of"):
        own(folder, "data.fingerprint=f0123")
    with pytest.raises(UserError, match=r"data\.fingerprint=f0123 applies to data\.name=folder or webdataset only"):
        tiny.tiny("data.fingerprint=f0123")


def test_a_run_of_an_earlier_version_keeps_its_directory(folder, tmp_path):
    cfg = own(folder)
    former = dataclasses.replace(cfg, data=dataclasses.replace(cfg.data, fingerprint=""))
    old = tmp_path / f"x-s{cfg.seed}-{config.config_hash(former)}"
    new = identity.own_directory(tmp_path, "x", cfg)
    assert new != old and new.name == f"x-s{cfg.seed}-{config.config_hash(cfg)}"
    RunDirectory(old).write_config(config.to_yaml(former))
    assert identity.own_directory(tmp_path, "x", cfg) == old
    identity.check_directory(RunDirectory(old), cfg)  # which images it learned from is not known
    new.mkdir()
    assert identity.own_directory(tmp_path, "x", cfg) == new


def test_a_finished_network_of_images_that_have_changed_is_not_taken_for_one_of_theirs(folder, tmp_path):
    directory = trained(own(folder), tmp_path / "run")
    payload = checkpoint.load_latest(directory)
    assert payload["data"] == payload["config"]["data"]["fingerprint"] == RunDirectory(directory).provenance()["data"]
    pretrain(own(folder), directory)  # unchanged: finished
    (folder / "train/a/0.png").rename(folder / "train/b/9.png")
    said = refused(own(folder), directory)
    assert "other images" in said and "put those back, or choose another --out" in said
    assert refused(tiny.tiny(*SHORT, "data.name=folder", f"data.root={folder}"), directory) == said  # not identified before


def test_the_second_launch_on_other_images_trains_another_network(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    found = []
    for root in (folder, folder, pictures(tmp_path / "other", seed=1)):
        assert run.main([*tiny.overrides(*SHORT), "data.name=folder", "--data-dir", str(root)]) == 0
        found.append(capsys.readouterr().out.splitlines()[-1])
    assert found[0] == found[1] != found[2] and len(list((tmp_path / "runs/pretrain").iterdir())) == 2


# -- checkpoints of others ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    directory = tmp_path_factory.mktemp("finished") / "run"
    pretrain(tiny.tiny(*SHORT), directory)
    return directory


def test_a_checkpoint_of_another_experiment_is_not_resumed(finished, tmp_path):
    cfg = tiny.tiny(*SHORT, "seed=7", "optimizer.lr=0.1")
    directory = tmp_path / "run"
    directory.mkdir()
    shutil.copy(finished / "checkpoint.pt", directory)
    said = refused(cfg, directory)
    assert "checkpoint.pt" in said and "seed=100, not 7" in said and "optimizer.lr=0.05, not 0.1" in said and "remove" in said
    assert not (directory / "config.yaml").exists()


def test_a_checkpoint_swapped_in_a_finished_or_an_unfinished_run_is_found(finished, tmp_path):
    cfg = tiny.tiny(*SHORT, "seed=7")
    directory = trained(cfg, tmp_path / "run")
    shutil.copy(finished / "checkpoint.pt", directory)
    assert "seed=100, not 7" in refused(cfg, directory)
    RunDirectory(directory).set_status("pending", trained=False)
    assert "seed=100, not 7" in refused(cfg, directory)


def test_the_checkpoint_before_is_looked_at_too(finished, tmp_path):
    cfg = tiny.tiny(*SHORT, "seed=7")
    directory = trained(cfg, tmp_path / "run")
    RunDirectory(directory).set_status("pending", trained=False)
    (directory / "checkpoint.pt").write_bytes(b"torn")
    shutil.copy(finished / "checkpoint.pt", directory / "checkpoint.previous.pt")
    assert "checkpoint.previous.pt" in refused(cfg, directory)


def test_a_checkpoint_that_learned_from_other_images_is_refused(finished, tmp_path):
    cfg = tiny.tiny(*SHORT)
    payload = checkpoint.load_latest(finished)
    assert payload["data"] == RunDirectory(finished).provenance()["data"]
    (tmp_path / "run").mkdir()
    checkpoint.save(tmp_path / "run", payload | {"data": "0" * 16})
    assert "other images" in refused(cfg, tmp_path / "run")


def test_a_checkpoint_without_a_config_is_refused(finished, tmp_path):
    (tmp_path / "run").mkdir()
    payload = checkpoint.load_latest(finished)
    torch.save({name: part for name, part in payload.items() if name != "config"}, tmp_path / "run" / "checkpoint.pt")
    assert "holds no config" in refused(tiny.tiny(*SHORT), tmp_path / "run")


@pytest.mark.parametrize("state", ["finished", "interrupted"])
def test_a_lost_config_is_written_again(finished, tmp_path, state):
    directory = tmp_path / "run"
    shutil.copytree(finished, directory)
    (directory / "config.yaml").unlink()
    if state == "interrupted":
        RunDirectory(directory).set_status("pending", trained=False)
    pretrain(tiny.tiny(*SHORT), directory)
    assert config.from_dict(RunDirectory(directory).read_config()) == tiny.tiny(*SHORT)
    (directory / "config.yaml").unlink()
    assert "seed=100, not 3" in refused(tiny.tiny(*SHORT, "seed=3"), directory)


def test_the_command_ends_with_one_line(finished, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    shutil.copy(finished / "checkpoint.pt", tmp_path / "run")
    with pytest.raises(SystemExit) as ended:
        cli(run.main, ["--out", str(tmp_path / "run"), *tiny.overrides(*SHORT, "seed=7")])
    err = capsys.readouterr().err
    assert ended.value.code == 2 and err.startswith("error: ") and err.count("\n") == 1
    assert sorted(os.listdir(tmp_path / "run")) == [".lock", "checkpoint.pt"]


def test_a_folder_with_a_metrics_file_of_the_users_own_is_refused_and_left_alone(tmp_path):
    mine = tmp_path / "results" / "metrics.jsonl"
    mine.parent.mkdir()
    mine.write_text('{"mine": 1}\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl that is of no run.*another --out"):
        pretrain(tiny.tiny(*SHORT), mine.parent)
    assert mine.read_text() == '{"mine": 1}\n' and not (mine.parent / "config.yaml").exists()


def test_a_folder_with_another_programs_config_is_not_advised_to_be_removed_alone(tmp_path):
    (tmp_path / "config.yaml").write_text("just text")
    with pytest.raises(UserError, match=r"of no run.*choose another directory"):
        pretrain(tiny.tiny(*SHORT), tmp_path)
