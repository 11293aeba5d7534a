"""Checkpoint files from anywhere: the same score as the plain file, or one line that says what it is; code in a file never runs."""

from __future__ import annotations

import argparse
import gzip
import io
import json
import random
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file

import transfer.run as transfer_run
from tests.faults import damage
from tests.faults.cases import Case, Verdict, refusal
from tests.faults.fork import Ended, child, program
from tests.faults.ground import Failed, Ground
from tests.faults.kills import difference

OWN = [
    "classification",
    "--checkpoint",
    "file.pt",
    "--widths",
    "1.0",
    "--protocol",
    "knn",
    "--dataset",
    "digits",
    "--out",
    "scores",
]
FOREIGN = [*OWN, "--size", "16", "--limit", "128"]
Maker = Callable[[Path, dict, random.Random], None]  # writes the file, of torchvision's weights


def plain(path: Path, weights: dict, rng: random.Random) -> None:
    torch.save(weights, path)


def data_parallel(path: Path, weights: dict, rng: random.Random) -> None:
    torch.save({"state_dict": {f"module.{name}": value for name, value in weights.items()}, "epoch": 3, "arch": "resnet18"}, path)


def behind_a_prefix(path: Path, weights: dict, rng: random.Random) -> None:
    prefix = rng.choice(["backbone.", "encoder.", "model.", "net.backbone."])
    torch.save({"model": {prefix + name: value for name, value in weights.items()}}, path)


def with_a_namespace(path: Path, weights: dict, rng: random.Random) -> None:
    torch.save({"model": weights, "args": argparse.Namespace(lr=0.1, data="/x"), "epoch": 3}, path)


def with_numpy_numbers(path: Path, weights: dict, rng: random.Random) -> None:
    torch.save({"state_dict": weights, "best_acc1": np.float64(71.2), "rng": np.arange(4)}, path)


def in_float64(path: Path, weights: dict, rng: random.Random) -> None:
    torch.save({name: value.double() if value.is_floating_point() else value for name, value in weights.items()}, path)


def in_the_old_format(path: Path, weights: dict, rng: random.Random) -> None:
    torch.save(weights, path, _use_new_zipfile_serialization=False)


def without_a_classifier(path: Path, weights: dict, rng: random.Random) -> None:
    torch.save({name: value for name, value in weights.items() if not name.startswith("fc.")}, path)


def another_classifier(path: Path, weights: dict, rng: random.Random) -> None:
    torch.save({**weights, "fc.weight": torch.zeros(7, 512), "fc.bias": torch.zeros(7)}, path)


def as_safetensors(path: Path, weights: dict, rng: random.Random) -> None:
    save_file({name: value.contiguous() for name, value in weights.items()}, path)


def other_order(path: Path, weights: dict, rng: random.Random) -> None:
    names = list(weights)
    rng.shuffle(names)
    torch.save({name: weights[name] for name in names}, path)


def a_whole_module(path: Path, weights: dict, rng: random.Random) -> None:
    torch.save(torchvision.models.resnet18(), path)


def torchscript(path: Path, weights: dict, rng: random.Random) -> None:
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(path))


def with_nan(path: Path, weights: dict, rng: random.Random) -> None:
    _changed(path, weights, rng, lambda value: value.view(-1)[:1].fill_(rng.choice([float("nan"), float("inf")])))


def without_one_weight(path: Path, weights: dict, rng: random.Random) -> None:
    del weights[rng.choice([name for name in weights if name.startswith("layer") and name.endswith("weight")])]
    torch.save(weights, path)


def of_another_shape(path: Path, weights: dict, rng: random.Random) -> None:
    name = rng.choice([name for name in weights if name.startswith("layer") and name.endswith("weight")])
    torch.save({**weights, name: weights[name][:-1]}, path)


def whole_numbers(path: Path, weights: dict, rng: random.Random) -> None:
    torch.save({name: value.long() for name, value in weights.items()}, path)


def nothing_in_it(path: Path, weights: dict, rng: random.Random) -> None:
    torch.save(rng.choice([{}, [], {"state_dict": {}}, {"epoch": 3}, None, 7, torch.zeros(3)]), path)


def a_list(path: Path, weights: dict, rng: random.Random) -> None:
    torch.save(list(weights.values()), path)


def texts(path: Path, weights: dict, rng: random.Random) -> None:
    torch.save(dict.fromkeys(weights, "text"), path)


def a_page(path: Path, weights: dict, rng: random.Random) -> None:
    path.write_text("<!DOCTYPE html>\n<html><head><title>Sign in</title></head><body>Quota exceeded</body></html>\n" * 20)


def an_lfs_pointer(path: Path, weights: dict, rng: random.Random) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 46830571\n")


def json_text(path: Path, weights: dict, rng: random.Random) -> None:
    path.write_text(json.dumps({"state_dict": {}}))


def a_picture(path: Path, weights: dict, rng: random.Random) -> None:
    Image.new("RGB", (32, 32)).save(path, format="PNG")


def numpy_file(path: Path, weights: dict, rng: random.Random) -> None:
    with open(path, "wb") as file:
        np.save(file, np.zeros(3))


def zipped(path: Path, weights: dict, rng: random.Random) -> None:
    content = io.BytesIO()
    torch.save(weights, content)
    path.write_bytes(gzip.compress(content.getvalue(), 1))


def an_archive(path: Path, weights: dict, rng: random.Random) -> None:
    content = io.BytesIO()
    torch.save(weights, content)
    with tarfile.open(path, "w") as archive:
        about = tarfile.TarInfo("model.pth")
        about.size = content.tell()
        archive.addfile(about, io.BytesIO(content.getvalue()))


def a_cut_safetensors(path: Path, weights: dict, rng: random.Random) -> None:
    as_safetensors(path, weights, rng)
    damage.cut(path, rng)


FOREIGNERS: tuple[Maker, ...] = (
    data_parallel,
    behind_a_prefix,
    with_a_namespace,
    with_numpy_numbers,
    in_float64,
    in_the_old_format,
    without_a_classifier,
    another_classifier,
    as_safetensors,
    other_order,
    a_whole_module,
    torchscript,
    with_nan,
    without_one_weight,
    of_another_shape,
    whole_numbers,
    nothing_in_it,
    a_list,
    texts,
    a_page,
    an_lfs_pointer,
    json_text,
    a_picture,
    numpy_file,
    zipped,
    an_archive,
    a_cut_safetensors,
)
# Whatever these hold, a score that is not that of the plain file would be one of another network.
OWNS: tuple[damage.Damage, ...] = damage.TORCH


def cases(count: int, base: Ground, rng: random.Random) -> list[Case]:
    """``count`` files: torchvision's weights in every guise once and again, and damaged files of ours."""
    folder = base.folder / "plain"
    own = _score(OWN, folder / "own", lambda path: path.write_bytes((base.trained / "run/checkpoint.pt").read_bytes()))
    foreign = _score(FOREIGN, folder / "foreign", lambda path: plain(path, _weights(), rng))
    made = []
    kinds = [*FOREIGNERS, *OWNS]
    chosen = [*kinds, *rng.choices(kinds, k=count)] if count >= len(kinds) else rng.sample(kinds, count)
    for number, kind in enumerate(chosen[:count]):
        if kind in OWNS:
            made.append(Case("checkpoint of ours", f"{number} {kind.__name__}", _own(kind, base, own)))
        else:
            made.append(Case("checkpoint of others", f"{number} {kind.__name__}", _foreign(kind, foreign)))
    return made


def _weights() -> dict:
    torch.manual_seed(0)
    return torchvision.models.resnet18().state_dict()


def _changed(path: Path, weights: dict, rng: random.Random, change: Callable) -> None:
    name = rng.choice([name for name in weights if name.startswith("layer") and name.endswith("weight")])
    value = weights[name].clone()
    change(value)
    torch.save({**weights, name: value}, path)


def _score(argv: list[str], folder: Path, write: Callable[[Path], object]) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    child(lambda: write(folder / "file.pt"), folder)
    ended = program(transfer_run.main, argv, folder)
    if ended.code != 0:
        raise Failed(f"a plain file ended with {ended.code}: {ended.last()}")
    return _records(folder)


def _records(folder: Path) -> str:
    """Scores, whatever the file was called and whatever stood in it besides the weights."""
    kept = ("metric", "width", "value", "count", "flops", "parameters")
    records = json.loads((folder / "scores" / "result.json").read_text())["records"]
    return json.dumps([{name: record.get(name) for name in kept} for record in records], sort_keys=True)


def _foreign(make: Maker, wanted: str) -> Callable[[Path, random.Random], Verdict]:
    def run(folder: Path, rng: random.Random) -> Verdict:
        name = "file.safetensors" if "safetensors" in make.__name__ else "file.pt"
        written = child(lambda: make(folder / name, _weights(), rng), folder)
        if written.code != 0:
            return Verdict.wrong(f"the campaign itself: {written.last()}")
        argv = [word.replace("file.pt", name) for word in FOREIGN]
        return _judged(program(transfer_run.main, argv, folder), folder, wanted)

    return run


def _own(how: damage.Damage, base: Ground, wanted: str) -> Callable[[Path, random.Random], Verdict]:
    def run(folder: Path, rng: random.Random) -> Verdict:
        path = folder / "file.pt"
        path.write_bytes((base.trained / "run/checkpoint.pt").read_bytes())
        said = how(path, rng)
        verdict = _judged(program(transfer_run.main, OWN, folder), folder, wanted)
        return Verdict(verdict.kind, f"{said}: {verdict.why}")

    return run


def _judged(ended: Ended, folder: Path, wanted: str) -> Verdict:
    if list(folder.parent.rglob("RAN")):
        return Verdict.wrong("code in the file was run")
    if ended.code == 0:
        found = _records(folder)
        return Verdict("equal") if found == wanted else Verdict.wrong(f"taken, with another score: {difference(wanted, found)}")
    return refusal(ended)
