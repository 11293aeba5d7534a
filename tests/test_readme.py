"""README and docs/tasks.md stay true: every command they show is run, in small form, in the order they show them."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from torchvision.io import write_png

from ablations.launching import joined
from ablations.run import main as ablations_main
from ablations.run import parser as ablations_parser
from pretrain.export import main as export_main
from pretrain.models import build
from pretrain.run import main as pretrain_main
from results.claims.__main__ import main as claims_main
from results.report import main as report_main
from rundir.overrides import split_overrides
from slurm.status import main as status_main
from tests.transfer.segmentation.files import camvid
from transfer.run import main as transfer_main
from transfer.run import parser as transfer_parser

README_FILE = Path(__file__).parents[1] / "README.md"
README = README_FILE.read_text() + (README_FILE.parent / "docs" / "tasks.md").read_text()
MAINS = {
    "ablations/run.py": ablations_main,
    "pretrain/run.py": pretrain_main,
    "transfer/run.py": transfer_main,
    "results/report.py": report_main,
    "results/claims": claims_main,
    "pretrain/export.py": export_main,
    "slurm/status.py": status_main,
}
SMALL = [
    "optimizer.epochs=1",
    "optimizer.batch_size=32",
    "data.limit=64",
    "data.size=8",
    "data.store_size=8",
    "model.projector_hidden=16",
    "model.projector_out=8",
    "model.predictor_hidden=16",
    "diagnostics.images=16",
    "calibration.images=32",
]


def commands() -> list[list[str]]:
    """Words of every ``python SCRIPT ...`` line of the console blocks."""
    lines = [line for block in re.findall(r"```console\n(.*?)```", README, re.S) for line in block.splitlines()]
    return [shlex.split(line)[1:] for line in lines if line.startswith("python ")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Own images: two classes of 40 small pictures, and 8 for validation."""
    root = tmp_path_factory.mktemp("images")
    for split, count in (("train", 40), ("val", 8)):
        for name in ("cats", "dogs"):
            (root / split / name).mkdir(parents=True)
            for index in range(count):
                image = torch.randint(0, 256, (3, 12, 12), dtype=torch.uint8, generator=torch.Generator().manual_seed(index))
                write_png(image, str(root / split / name / f"{index}.png"))
    return root


@pytest.fixture(scope="module")
def street_scenes(tmp_path_factory) -> Path:
    """Six small images in CamVid's layout."""
    return camvid(tmp_path_factory.mktemp("streets"))


def test_the_commands_of_the_readme_run(tmp_path, folder, street_scenes, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shown = commands()
    assert {words[0] for words in shown} == set(MAINS)
    tiny_grid = ["--grid", "guidelines", "--profile", "digits", "--only", "mse-mse-online", "--executor", "inline", *SMALL]
    assert ablations_main(tiny_grid) == 0  # what the report command reads
    students = {f"module.encoder_q.{name}": tensor for name, tensor in build("resnet_small").state_dict().items()}
    torch.save({"epoch": 1, "arch": "us_small", "state_dict": students}, "checkpoint.pth.tar")  # of the authors
    shutil.copy(README_FILE.parent / "slurm" / "example.yaml", "cluster.yaml")
    for script, *words in shown:
        if {"flowers102", "coco_1x", "voc_24k"} & set(words):  # has to be downloaded: its options are read, no more
            transfer_parser().parse_args(words)
            continue
        if script == "ablations/run.py" and "DATA" in words:  # likewise
            ablations_parser().parse_args(split_overrides(joined(words))[0])
            continue
        words = [str(folder) if word in ("DIR", "DATA") else word for word in words]
        if script == "ablations/run.py":
            words = [*words, "--dry-run"] if "--dry-run" not in words else words
            words += SMALL if "--dry-run" in words and not any(w.startswith("optimizer.") for w in words) else SMALL[1:]
        elif script == "pretrain/run.py":
            words += SMALL
        elif "label-lists" in words:
            words = ["digits" if word == "cifar10" else word for word in words]
        elif words[0] == "scenes":
            words += ["--train", "4", "--test", "2", "--size", "40"]
        elif words[0] == "detection":
            words = [word for word in words if word not in ("1.0", "0.75", "0.5")]  # one width
            words += ["--iterations", "2", "--batch-size", "2", "--pictures", "1"]
        elif "--label-fraction" in words:
            words += ["--set", "linear.epochs=1", "finetune.epochs=1"]
        elif words[0] == "segmentation":
            words = [str(street_scenes) if word == "CAMVID" else word for word in words if word not in ("1.0", "0.75", "0.5")]
            words += ["--iterations", "1", "--batch-size", "2", "--pictures", "1"]
        elif script == "pretrain/export.py":
            words += ["--format", "safetensors"]  # ONNX has tests of its own
        assert MAINS[script](words) == 0, (script, words)


def test_the_python_example_of_the_readme_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pretrain_main(["--preset", "digits", "--out", "runs/mine", *SMALL])
    names: dict = {}
    for block in re.findall(r"```python\n(.*?)```", README, re.S):
        exec(block, names)
    assert isinstance(names["network"](torch.zeros(2, 3, 8, 8)), torch.Tensor)


def test_every_preset_and_profile_of_the_readme_exists():
    from pretrain.config import load, presets

    named = set(re.findall(r"--(?:preset|profile) (\w+)(?!\w|\.yaml)", README)) | set(re.findall(r"^\| `(\w+)`", README, re.M))
    assert named <= {*presets(), "auto"}
    for name in named - {"auto"}:
        load(name)


def test_every_picture_and_page_the_readme_links_is_there():
    linked = [target for target in re.findall(r"\]\(([^)#]+)", README_FILE.read_text()) if "://" not in target]
    assert [target for target in linked if not (README_FILE.parent / target).exists()] == []
