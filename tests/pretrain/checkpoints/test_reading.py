"""Any file as a checkpoint: weights among harmless objects are read, no code is run, everything else ends with one line."""

import argparse
import collections
import contextlib
import enum
import functools
import gzip
import io
import os
import pathlib
import pickle
import re
import struct
import subprocess
import sys
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from safetensors.torch import save_file
from torch import nn

from pretrain import export
from pretrain.checkpoints.foreign import _tensors
from pretrain.checkpoints.inert import StandIn
from pretrain.checkpoints.reading import read
from rundir.cli import cli
from rundir.errors import UserError

HistoryBuffer = pytest.importorskip("mmengine.logging", reason="mmengine is not installed (make setup does it)").HistoryBuffer
ONE_LINE = r"\A[^\n]+\Z"


def weights():
    """Tensors of several kinds, some of them sharing memory."""
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(4, 6, generator=generator)
    return {
        "a.weight": base,
        "a.rows": base[1:3],
        "a.turned": base.t(),
        "b.half": base.half(),
        "b.brain": base.bfloat16(),
        "c.count": torch.tensor(7),
        "c.flags": base > 0,
        "c.empty": torch.empty(0, 3),
        "d.parameter": nn.Parameter(base[0] * 2),
    }


def assert_weights(payload, prefix="model."):
    """The payload's tensors, whatever else is in it, are the weights."""
    found = {name.removeprefix(prefix): tensor for name, tensor in _tensors(payload) if name.startswith(prefix)}
    expected = {name: tensor.detach() for name, tensor in weights().items()}
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) and found[name].dtype == expected[name].dtype for name in expected)
    assert all(type(tensor) is torch.Tensor for tensor in found.values())


class AttributeDict(dict):
    """As Lightning's: items that are attributes too."""


class Level(enum.Enum):
    HIGH = 3


class Listing(list):
    """A list with a name of its own."""


def attributes():
    named = AttributeDict(lr=0.1)
    named.note = "x"
    return named


OBJECTS = {
    "argparse.Namespace (DINO, MAE, timm, torchvision)": lambda: argparse.Namespace(model="resnet18", lr=0.1, nested={"a": [1, 2]}),
    "numpy scalars": lambda: {"best": np.float64(3.5), "steps": np.int64(3)},
    "numpy arrays": lambda: np.arange(6).reshape(2, 3),
    "OmegaConf (Lightning)": lambda: OmegaConf.create({"optimizer": {"lr": 0.1}, "widths": [1, 2]}),
    "HistoryBuffer (mmengine)": lambda: HistoryBuffer([1.0, 2.0], [1, 1]),
    "dict with attributes (Lightning)": attributes,
    "list of a class": lambda: Listing([1, 2]),
    "defaultdict": lambda: collections.defaultdict(list, {"a": [1]}),
    "Counter": lambda: collections.Counter("abca"),
    "deque (callbacks)": lambda: collections.deque([1, 2], maxlen=5),
    "sets": lambda: {"a": {1, 2}, "b": frozenset([3])},
    "path": lambda: pathlib.PurePosixPath("a/b"),
    "enum": lambda: Level.HIGH,
    "partial": lambda: functools.partial(print, 1),
    "function": lambda: weights,
    "torch types": lambda: [torch.float16, torch.device("cpu"), torch.Size([1, 2])],
    "criterion": lambda: nn.CrossEntropyLoss(),
    "bytes": lambda: [b"a", bytearray(b"b"), 1j, 2**80, slice(1, 2)],
    "generator": lambda: np.random.RandomState(0).get_state(),
}


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("name", OBJECTS)
def test_weights_next_to_harmless_objects_are_read(tmp_path, name, protocol, zipped):
    path = tmp_path / "c.pth"
    payload = {"args": OBJECTS[name](), "model": weights(), "epoch": 3}
    torch.save(payload, path, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    found = read(path)
    assert_weights(found)
    assert found["epoch"] == 3


def test_what_a_file_says_of_itself_is_kept(tmp_path):
    torch.save({"args": argparse.Namespace(model="resnet18", lr=0.1), "model": weights()}, tmp_path / "c.pth")
    args = read(tmp_path / "c.pth")["args"]
    assert isinstance(args, StandIn) and args.path == "argparse.Namespace"
    assert args.state == {"model": "resnet18", "lr": 0.1}


class Holder(nn.Module):
    """Weights as parameters and buffers, one of which is not saved in a state dict."""

    def __init__(self):
        super().__init__()
        self.block = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
        self.register_buffer("kept", torch.ones(2))
        self.register_buffer("dropped", torch.ones(2), persistent=False)
        self.size = 7


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_whole_module_is_its_state_dict(tmp_path, zipped):
    module = Holder()
    torch.save({"model": module}, tmp_path / "c.pth", _use_new_zipfile_serialization=zipped)
    found = dict(_tensors(read(tmp_path / "c.pth")))
    expected = {f"model.{name}": tensor for name, tensor in module.state_dict().items()}
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


# -- nothing of the file is run -----------------------------------------------------------------------------------------------


class Calls:
    """Calls ``function(*arguments)`` when it is unpickled."""

    def __init__(self, function, *arguments):
        self.what = function, arguments

    def __reduce__(self):
        return self.what


def touch():
    """Code that leaves a trace in the working directory."""
    return "open('ran', 'w').close()"


ATTACKS = {
    "os.system": lambda: Calls(os.system, "touch ran"),
    "os.mkdir": lambda: Calls(os.mkdir, "ran"),
    "eval": lambda: Calls(eval, touch()),
    "exec": lambda: Calls(exec, touch()),
    "subprocess": lambda: Calls(subprocess.call, ["touch", "ran"]),
    "open": lambda: Calls(open, "ran", "w"),
    "partial": lambda: Calls(functools.partial(os.mkdir, "ran")),
    "path": lambda: Calls(pathlib.Path.touch, pathlib.Path("ran")),
    "numpy": lambda: Calls(np.save, "ran", [1]),
    "torch.save": lambda: Calls(torch.save, [1], "ran"),
    "torch.load": lambda: Calls(torch.load, io.BytesIO(pickle.dumps(Calls(os.mkdir, "ran")))),
    "state": lambda: Calls(object.__reduce__, Calls(os.mkdir, "ran")),
    "map": lambda: Calls(list, map(os.mkdir, ["ran"])),
}
PLACES = {
    "alone": lambda evil: evil,
    "in a dict": lambda evil: {"model": weights(), "x": evil},
    "as weights": lambda evil: {"model": {"a.weight": evil}},
    "in a Namespace": lambda evil: {"args": argparse.Namespace(a=evil)},
    "as a key": lambda evil: {(1, evil): 2},
    "own checkpoint": lambda evil: {"format": 1, "encoder": evil, "config": evil},
}


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("attack", ATTACKS)
def test_no_code_of_a_file_is_run(tmp_path, monkeypatch, attack, place, zipped):
    monkeypatch.chdir(tmp_path)
    for protocol in (2, 4):
        torch.save(PLACES[place](ATTACKS[attack]()), "c.pth", pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
        before = sorted(os.listdir())
        with contextlib.suppress(UserError):
            read("c.pth")
        pathlib.Path("plain.pth").write_bytes(pickle.dumps(PLACES[place](ATTACKS[attack]()), protocol))
        with pytest.raises(UserError, match=ONE_LINE):
            read("plain.pth")
        os.remove("plain.pth")
        assert sorted(os.listdir()) == before == ["c.pth"]


def test_a_pickle_made_to_run_something_says_so(tmp_path):
    torch.save({"args": argparse.Namespace(a=Calls(os.system, "touch ran"))}, tmp_path / "c.pth")
    with pytest.raises(UserError, match=r"safely: it would run posix\.system; do not open it"):
        read(tmp_path / "c.pth")


def test_functions_that_build_tensors_cannot_be_changed(tmp_path):
    """A pickle may set the state of what is on its stack, also of a function that it named."""
    attack = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}X\x09\x00\x00\x00_functionK\x01sN\x86b."
    attack = attack.replace(b"}X", b"N}X").replace(b"sN\x86b", b"s\x86b")  # state (None, {name: value})
    path = tmp_path / "c.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", attack)
    with pytest.raises(UserError, match=ONE_LINE):
        read(path)
    torch.save({"args": argparse.Namespace(), "model": weights()}, path)
    assert_weights(read(path))


# -- files of other kinds -----------------------------------------------------------------------------------------------------


def zip_of(**files):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name.replace("__", "/"), data)
    return content.getvalue()


def torch_bytes(payload, **options):
    content = io.BytesIO()
    torch.save(payload, content, **options)
    return content.getvalue()


def tar_bytes():
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a"))
    return content.getvalue()


def array_bytes(**arrays):
    content = io.BytesIO()
    if arrays:
        np.savez(content, **arrays)
    else:
        np.save(content, np.ones(3))
    return content.getvalue()


KINDS = {
    "nothing": (lambda: b"", r"is empty \(0 bytes\).*copy it again"),
    "page": (lambda: b"\n <!DOCTYPE html><html>Quota</html>", r"web page.*download"),
    "page of XML": (lambda: b"<?xml version='1.0'?><Error>AccessDenied</Error>", "web page"),
    "commented page": (lambda: b"<!-- saved -->\n<HTML lang=en>", "web page"),
    "pointer": (lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 44000000\n", "LFS pointer.*git lfs pull"),
    "index": (lambda: b'{"weight_map": {"a": "b"}}', "an index of several files"),
    "message": (lambda: b'{"error": "not found"}', 'text that begins with \'{"error"'),
    "accents": (lambda: "é".encode() * 400, "text that begins with 'é"),
    "gzip": (lambda: gzip.compress(torch_bytes(weights())), "gzip; unpack it"),
    "tar": (tar_bytes, "tar archive; unpack it"),
    "array": (array_bytes, "a NumPy array"),
    "arrays": (lambda: array_bytes(kernel=np.ones(3)), "archive of NumPy arrays.*timm"),
    "zip": (lambda: zip_of(a__readme="hello"), "zip archive of something else.*'a/readme'.*unpack"),
    "empty zip": (lambda: zip_of(), "not a torch file"),
    "cut zip": (lambda: zip_of(a__readme="hello")[:-9], "truncated or not a torch file"),
    "bomb": (lambda: zip_of(a__data__0=bytes(10**7), **{"a__data.pkl": b"\x80\x02N."}), "holds far more than its"),
    "big endian": (lambda: zip_of(**{"a__data.pkl": b"\x80\x02carg\nx\n.", "a__byteorder": b"big"}), "not a torch file"),
    "pickle": (lambda: pickle.dumps({"a": 1}), "a pickle that torch.save did not write"),
    "pickle of arrays": (lambda: pickle.dumps({"a": np.ones(3)}), r"a pickle of numpy.*torch\.save\(model\.state_dict"),
    "HDF5": (lambda: b"\x89HDF\r\n\x1a\n" + bytes(100), "HDF5"),
    "image": (lambda: b"\x89PNG\r\n\x1a\n" + bytes(100), "a PNG image"),
    "memo": (lambda: torch_zip(b"\x80\x02cx\ny\nr\xff\xff\xff\xff."), "not a torch file"),
    "frame": (lambda: torch_zip(b"\x80\x04cx\ny\n\x95" + b"\xff" * 8 + b"."), "not a torch file"),
    "long text": (lambda: torch_zip(b"\x80\x04cx\ny\n\x8d" + b"\x7f" * 8 + b"."), "not a torch file"),
    "huge tensor": (
        lambda: torch_bytes(weights(), _use_new_zipfile_serialization=False).replace(b"K\x18N", b"J\xff\xff\xff\x7fN"),
        "not a torch file",
    ),
    "negative length": (lambda: struct.pack("<q", -5) + b"{" + bytes(50), "not a"),
}


def torch_zip(pickled):
    return zip_of(**{"a__data.pkl": pickled, "a__version": b"3"})


@pytest.mark.parametrize("name", ["c.pth", "c.safetensors"])
@pytest.mark.parametrize("kind", KINDS)
def test_files_of_other_kinds_are_named(tmp_path, kind, name):
    content, message = KINDS[kind]
    (tmp_path / name).write_bytes(content())
    with pytest.raises(UserError, match=ONE_LINE) as error:
        read(tmp_path / name)
    assert str(error.value).startswith(str(tmp_path / name))
    if name == "c.pth" or kind not in {"memo", "frame", "bomb", "zip"}:
        assert re.search(f"{message}|not a safetensors file", str(error.value))


def test_the_content_tells_the_kind_not_the_name(tmp_path):
    save_file({name: tensor.contiguous().clone() for name, tensor in weights().items()}, tmp_path / "c.pth")
    assert_weights(read(tmp_path / "c.pth"), "")


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path, message in (
        (tmp_path / "none.pt", "there is no checkpoint"),
        (tmp_path / "pipe", "that is an ordinary file"),
        (tmp_path, "that is an ordinary file"),
    ):
        with pytest.raises(UserError, match=message):
            read(path)


@pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")
def test_the_advice_for_torchscript_works(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).eval()
    torch.jit.save(torch.jit.trace(module, torch.zeros(1, 3)), "script.pt")
    with pytest.raises(UserError, match="TorchScript archive") as error:
        read("script.pt")
    advice = str(error.value).partition("alone: ")[2]
    exec(advice, {"torch": torch})
    found = read("weights.pth")
    assert all(torch.equal(found[name], tensor) for name, tensor in module.state_dict().items())


# -- any bytes ----------------------------------------------------------------------------------------------------------------


def one_line_or_payload(path):
    try:
        return read(path)
    except UserError as error:
        assert "\n" not in str(error) and str(path) in str(error)
        return None


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    start=st.sampled_from([b"", b"\x80\x02", b"\x80\x04\x95", b"PK\x03\x04", b"\x10\0\0\0\0\0\0\0{", b"\x8a\n", b"<"]),
    content=st.binary(max_size=300),
)
@example(start=b"", content=b"\x80")
def test_any_bytes_end_in_one_line(tmp_path, start, content):
    path = tmp_path / "c.pth"
    path.write_bytes(start + content)
    one_line_or_payload(path)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), form=st.sampled_from(["zip", "legacy", "safetensors", "namespace", "legacy namespace"]))
def test_a_damaged_file_ends_in_one_line(tmp_path, damaged_forms, data, form):
    content = bytearray(damaged_forms[form])
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(len(content) // 2, len(content)))]
    path = tmp_path / "c.pth"
    path.write_bytes(content)
    one_line_or_payload(path)


@pytest.fixture(scope="module")
def damaged_forms(tmp_path_factory):
    folder, plain = tmp_path_factory.mktemp("whole"), {"model": weights()}
    save_file({"a": torch.ones(3), "b": torch.ones(2, 2)}, folder / "s")
    more = plain | {"args": argparse.Namespace(a=1, b=np.float64(2))}
    return {
        "zip": torch_bytes(plain),
        "legacy": torch_bytes(plain, _use_new_zipfile_serialization=False),
        "namespace": torch_bytes(more),
        "legacy namespace": torch_bytes(more, _use_new_zipfile_serialization=False),
        "safetensors": (folder / "s").read_bytes(),
    }


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=200))
def test_a_command_with_any_bytes_exits_with_2(tmp_path, capsys, content):
    (tmp_path / "c.pth").write_bytes(content)
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit_:
        cli(export.main, ["--checkpoint", str(tmp_path / "c.pth"), "--out", str(tmp_path / "out")])
    shown = capsys.readouterr().err
    assert exit_.value.code == 2 and shown.startswith("error: ") and len(shown.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_mappings_that_hold_themselves_end(tmp_path):
    payload = {"model": weights()}
    payload["itself"] = payload
    shared = {}
    for _ in range(60):
        shared = {"left": shared, "right": shared}
    torch.save(payload | {"shared": shared}, tmp_path / "c.pth")
    assert sum(1 for _ in zip(_tensors(read(tmp_path / "c.pth")), range(50), strict=False)) == 50


def test_reading_is_silent(tmp_path):
    torch.save({"args": argparse.Namespace(), "model": weights()}, tmp_path / "c.pth", pickle_protocol=5)
    program = "import sys; from pretrain.checkpoints.reading import read; read(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path / "c.pth")], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
