"""Any file as a checkpoint: what is in it, read safely, or one line that says what it is and what to do instead.

Files come from downloads, clusters and colleagues, so their names say little: the kind is told by the content.
"""

from __future__ import annotations

import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pretrain.checkpoints.inert import LEGACY_MAGIC, named_in, read_inert
from rundir.errors import UserError

SAVE_WEIGHTS = "where it was written, save the weights alone: torch.save(model.state_dict(), 'weights.pth')"
AGAIN = "copy it again, or take the checkpoint before it"
UNPACK = "unpack it and give the checkpoint inside"
# How a file begins, what it is then, and what to do about it.
MAGIC = [
    (
        b"version https://git-lfs",
        "a Git LFS pointer, not the file that it points to",
        "run git lfs pull, or download the file itself",
    ),
    (b"\x1f\x8b", "compressed by gzip", UNPACK),
    (b"BZh", "compressed by bzip2", UNPACK),
    (b"\xfd7zXZ", "compressed by xz", UNPACK),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd", UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", UNPACK),
    (b"Rar!", "a RAR archive", UNPACK),
    (b"\x93NUMPY", "a NumPy array", SAVE_WEIGHTS),
    (b"\x89HDF\r\n", "an HDF5 file (Keras?)", "give a torch or safetensors file of the network"),
    (b"GGUF", "a GGUF file", "give a torch or safetensors file of the network"),
    (b"\x89PNG", "a PNG image", "give a checkpoint"),
    (b"\xff\xd8\xff", "a JPEG image", "give a checkpoint"),
    (b"%PDF", "a PDF document", "give a checkpoint"),
]
HTML = re.compile(rb"\s*(<!--.*?-->\s*)*<(!doctype html|html|head|body|\?xml)", re.IGNORECASE | re.DOTALL)
TAR_MAGIC_AT = 257
INFLATED = 20  # times its size that an archive may hold: weights hardly compress


def read(path: str | Path) -> Any:
    """What is in ``path``, whoever wrote it, tensors on the CPU: a file of torch (of any version) or of safetensors.

    Objects that are neither tensors nor plain containers become :class:`~pretrain.checkpoints.inert.StandIn`; no code of the file
    is run.

    Raises:
        UserError: there is no such file, it is damaged or of another kind, or it was made to run code.
    """
    path = Path(path)
    if not path.is_file():
        what = " that is an ordinary file" if path.exists() else ""
        raise UserError(f"there is no checkpoint {path}{what}; give a run directory, or its checkpoint.pt")
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            head = file.read(512)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); give a checkpoint that can") from None
    _refuse_other_kinds(path, head, size)
    if path.suffix == ".safetensors" or _is_safetensors(head, size):
        return _read_safetensors(path)
    if head.startswith(b"PK\x03\x04"):
        _refuse_other_archives(path, size)
    return _read_torch(path, size)


def _refuse_other_kinds(path: Path, head: bytes, size: int) -> None:
    if not size:
        raise UserError(f"{path} is empty (0 bytes), so it is truncated or not a torch file; {AGAIN}")
    if HTML.match(head):
        raise UserError(
            f"{path} is a web page (HTML), saved instead of the file (a sign-in or a quota?); "
            "open its address in a browser and download the file itself"
        )
    for magic, what, advice in MAGIC:
        if head.startswith(magic):
            raise UserError(f"{path} is {what}; {advice}")
    if head[TAR_MAGIC_AT:].startswith(b"ustar"):
        raise UserError(f"{path} is a tar archive; {UNPACK}")
    text = _text(head)
    if text:
        hint = "an index of several files" if '"weight_map"' in text else f"text that begins with {text[:40]!r}"
        raise UserError(f"{path} ({size:,} bytes) is not a torch file but {hint}; give the file that holds the weights")


def _text(head: bytes) -> str:
    """The beginning of a text file on one line; empty where it is none."""
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 3:  # a character may be cut at the end
            return ""
        text = head[: error.start].decode("utf-8")
    return " ".join(text.split()) if all(char.isprintable() or char in "\r\n\t" for char in text) else ""


def _is_safetensors(head: bytes, size: int) -> bool:
    return head[8:9] == b"{" and 2 <= int.from_bytes(head[:8], "little") <= size - 8


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError:
        raise UserError(f"reading {path} needs safetensors; pip install 'us3l-bench[export]'") from None
    try:
        return load_file(path)
    except (SafetensorError, OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise UserError(f"{path} is truncated or not a safetensors file ({_reason(error)}); {AGAIN}") from None


def _refuse_other_archives(path: Path, size: int) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, RuntimeError):
        raise UserError(f"{path} ({size:,} bytes) is truncated or not a torch file; {AGAIN}") from None
    names = {entry.filename.partition("/")[2] or entry.filename for entry in entries}
    if "constants.pkl" in names:
        raise UserError(
            f"{path} is a TorchScript archive, a program and its weights; "
            f"save its weights alone: torch.save(torch.jit.load('{path.name}').state_dict(), 'weights.pth')"
        )
    if {"archive_format", "serialized_exported_program.json"} & names:
        raise UserError(
            f"{path} is a program that torch.export wrote; "
            f"save its weights alone: torch.save(torch.export.load('{path.name}').state_dict, 'weights.pth')"
        )
    if entries and all(entry.filename.endswith(".npy") for entry in entries):
        raise UserError(
            f"{path} is an archive of NumPy arrays; read it with the library that it is for (timm: checkpoint_path=), "
            "then torch.save(model.state_dict(), 'weights.pth')"
        )
    if "data.pkl" not in names:
        first = f" (it begins with {entries[0].filename[:60]!r})" if entries else ", and it is empty"
        raise UserError(f"{path} is a zip archive of something else than a torch file{first}; {UNPACK}")
    if sum(entry.file_size for entry in entries) > INFLATED * size:
        raise UserError(f"{path} holds far more than its {size:,} bytes, compressed; {SAVE_WEIGHTS}")


def _read_torch(path: Path, size: int) -> object:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception:  # it names more than tensors, or is damaged, which ends in many ways
        pass
    _refuse_other_pickles(path)
    try:
        return read_inert(path)
    except MemoryError:
        raise
    except ValueError as error:
        if str(error).startswith("it would run"):
            raise UserError(
                f"{path} is not a checkpoint that can be read safely: {error}; do not open it with other programs "
                "either, and get the weights from somebody you trust"
            ) from None
        raise _damaged(path, size) from None
    except Exception:  # the unpickler takes damaged bytes for instructions, and each ends in another way
        raise _damaged(path, size) from None


def _damaged(path: Path, size: int) -> UserError:
    return UserError(f"{path} ({size:,} bytes) is truncated or not a torch file; {AGAIN}")


def _refuse_other_pickles(path: Path) -> None:
    """Raise :class:`UserError` for a pickle that is whole but not torch's."""
    with open(path, "rb") as file:
        try:
            names = named_in(file)
            file.seek(0)
            first = file.read(64)
        except Exception:  # damaged, or no pickle at all: told by the reader
            return
    if names or LEGACY_MAGIC.to_bytes(10, "little") not in first:
        what = f" of {', '.join(sorted(names)[:3])}" if names else ""
        raise UserError(
            f"{path} is a pickle{what} that torch.save did not write, not a checkpoint that can be read safely; {SAVE_WEIGHTS}"
        )


def _reason(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]
