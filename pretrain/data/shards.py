"""Reading tar shards in the layout of the webdataset library: which images they hold, and where in the files these are.

A shard holds samples, files of one name next to each other: ``a/b.jpg`` and ``a/b.cls`` are sample ``a/b``, an image and its label.
The library reads shards from beginning to end; here they are indexed once, so an image is found at its place in a file, and order,
resumption and subsets are those of any other data set.
"""

from __future__ import annotations

import os
import re
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from pretrain.data.files import Signature, entries, is_folder, is_litter, read_part, signature, some
from pretrain.data.folder import SPLITS, alike, with_progress
from pretrain.data.images import SUFFIXES
from pretrain.lazy import Lazy
from rundir.errors import Setting, UserError

library = Lazy("webdataset.tariterators")

IN_NAMES = {"train": r"train(?:ing)?", "val": r"val(?:id(?:ation)?)?"}  # how names of shards say their split
COMPRESSED = re.compile(r"\.(?:tgz|tbz2|txz|tar\.\w+)$", re.IGNORECASE)
NUMBERED = re.compile(r"(.*?)(\d+)(?:(-of-)(\d+))?$")
LABEL = "cls"
COMPARED = 64  # images that may be there twice of which the contents are compared
READERS = 8  # threads: files on a network file system are waited for


@dataclass
class Found:
    """One split: its shards' paths; K class names, sorted (numbers as numbers); for each of N images its name (shard, then file),
    class number, shard number, first byte in the shard, and size; what is odd, a line each; signatures of what was looked at, by
    name below the root.
    """

    shards: list[str]
    classes: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    shard: list[int] = field(default_factory=list)
    first: list[int] = field(default_factory=list)
    size: list[int] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seen: dict[str, Signature] = field(default_factory=dict)


@dataclass(frozen=True)
class Member:
    """An image in a shard: its name there, the text of its label, its first byte and its size."""

    name: str
    label: str
    first: int
    size: int


def are_there(root: str) -> bool:
    """Whether ``root`` has shards of training images, without looking into them."""
    return os.path.isdir(root) and bool(_shards(root, "train", {}, []))


def scan(root: str, split: str) -> Found:
    """The images of one split, "train" or "val": all in ``root``/train/*.tar, or without such a folder in ``root``/*train*.tar.

    Raises UserError: shards are missing, compressed, damaged or hold links; a sample has no image or no label, or two; an image is
    there twice; train and val have different classes.
    """
    if not os.path.isdir(root):
        raise UserError(f"no folder {root}; set ", Setting("data.root", "DIR"), ", where DIR/train/*.tar or DIR/*train*.tar are")
    seen: dict[str, Signature] = {}
    notes: dict[str, list[str]] = {name: [] for name in SPLITS}
    paths = {name: _shards(root, name, seen, notes[name]) for name in SPLITS}
    for name in SPLITS:
        if not paths[name]:
            raise UserError(
                f"no shards of the split {name} in {root}; set ",
                Setting("data.root", "DIR"),
                f", where DIR/{name}/*.tar or DIR/*{name}*.tar hold the images",
            )
        _check_numbers(paths[name], name)
    both = sorted(set(paths["train"]) & set(paths["val"]))
    if both:
        raise UserError(f"the name of {both[0]} says both train and val; rename it, or put it into a folder train/ or val/")
    _check_library()
    members = {name: _indexed(paths[name], notes[name], f"{os.path.basename(root)}/{name}") for name in SPLITS}
    _check_copies(paths, members)
    labels = {name: {member.label for shard in members[name] for member in shard} for name in SPLITS}
    if labels["train"] != labels["val"]:
        only = sorted(labels["train"] ^ labels["val"])
        raise UserError(
            f"the training and the validation shards in {root} have different classes: only one of them has the label "
            f"{some(only)}; give both the same classes"
        )
    found = Found(paths[split], _sorted(labels[split]), notes=notes[split], seen=seen)
    number = {label: i for i, label in enumerate(found.classes)}
    for place, (path, shard) in enumerate(zip(paths[split], members[split], strict=True)):
        stem = os.path.basename(path).removesuffix(".tar")
        for member in shard:
            found.names.append(f"{stem}/{member.name}")
            found.labels.append(number[member.label])
            found.shard.append(place)
            found.first.append(member.first)
            found.size.append(member.size)
    found.notes += alike(found.classes)
    return found


def _check_library() -> None:
    try:
        library.base_plus_ext("a.b")
    except ImportError:
        raise UserError(
            "data.name=webdataset needs the package webdataset, which is not installed; run pip install webdataset"
        ) from None


def _shards(root: str, split: str, seen: dict[str, Signature], notes: list[str]) -> list[str]:
    """The shards of ``split``, sorted; adds to ``seen`` what was looked at, with them."""
    inner = os.path.join(root, split)
    home = inner if os.path.isdir(inner) else root
    seen[os.path.relpath(home, root)] = signature(home)
    said = re.compile(rf"(?:^|[^a-z]){IN_NAMES[split]}(?:[^a-z]|$)", re.IGNORECASE)
    found = [entry.name for entry in entries(home) if not is_litter(entry.name) and not is_folder(entry)]
    mine = sorted(name for name in found if home == inner or said.search(name))
    packed = [name for name in mine if COMPRESSED.search(name)]
    if packed:
        raise UserError(
            f"{os.path.join(home, packed[0])} is compressed, so its images cannot be read one by one; "
            "unpack it to a .tar file (gunzip, zstd -d)"
        )
    shards = [name for name in mine if name.lower().endswith(".tar")]
    others = [name for name in mine if name not in shards]
    if others:
        notes.append(f"left out {len(others)} of {home} that are no shards: {some(others)}")
    seen |= {os.path.relpath(os.path.join(home, name), root): signature(os.path.join(home, name)) for name in shards}
    return [os.path.join(home, name) for name in shards]


def _check_numbers(paths: Sequence[str], split: str) -> None:
    """Raise UserError where the numbers in the shards' names show that one is missing."""
    groups: dict[tuple[str, int], set[int]] = {}
    for path in paths:
        parts = NUMBERED.fullmatch(os.path.basename(path)[: -len(".tar")])
        if parts:
            groups.setdefault((parts[1], int(parts[4] or 0)), set()).add(int(parts[2]))
    for (before, count), numbers in groups.items():
        start = min(*numbers, 1) if count else min(numbers)
        missing = sorted(set(range(start, start + count if count else max(numbers))) - numbers)
        if missing:
            which, home = some([str(number) for number in missing]), os.path.dirname(paths[0])
            raise UserError(
                f"{len(missing)} of the {split} shards {before}*.tar in {home} are missing, by their numbers: {which}; "
                "put them there, or rename the others so that there is no gap"
            )


def _indexed(paths: Sequence[str], notes: list[str], name: str) -> list[list[Member]]:
    """The members of each shard; adds what is odd to ``notes``."""
    found, litter = [], []
    with ThreadPoolExecutor(READERS) as pool:
        for start in with_progress(range(0, len(paths), READERS), len(paths), name, "shards"):
            for members, others in pool.map(index, paths[start : start + READERS]):
                found.append(members)
                litter += others
    if litter:
        notes.append(f"left out {len(litter)} files in shards that belong to no sample: {some(litter)}")
    return found


def index(path: str) -> tuple[list[Member], list[str]]:
    """The samples of a shard, in their order, and files that belong to none.

    Raises UserError: the file is damaged or cut off, or a sample is not one image and one label.
    """
    samples: dict[str, dict[str, tuple[str, int, int]]] = {}
    litter, last = [], None
    for name, first, size in _files(path):
        parts = name.split("/")
        key, extension = library.base_plus_ext(name)
        if key is None or any(is_litter(part) or part.startswith("__") for part in parts):
            litter.append(f"{path}: {name}")
            continue
        sample, extension = samples.setdefault(key, {}), extension.lower()
        if extension in sample:
            raise UserError(f"{path} holds {name} twice; write this shard again with a name for each sample")
        if sample and key != last:
            raise UserError(
                f"{path}: the files of sample {key} are not next to each other, which makes two samples of them; "
                "write this shard again, sorted by name (tar --sort=name)"
            )
        sample[extension], last = (name, first, size), key
    members = [_member(path, key, sample) for key, sample in samples.items()]
    if not members:
        raise UserError(f"{path} holds no samples; remove it, or write it again with files KEY.jpg and KEY.{LABEL}")
    return members, litter


def _member(path: str, key: str, sample: dict[str, tuple[str, int, int]]) -> Member:
    images = [extension for extension in sample if f".{extension}" in SUFFIXES]
    have = f"its files are {some([f'.{extension}' for extension in sample])}"
    if len(images) != 1:
        raise UserError(
            f"{path}: sample {key} has {'two images' if images else 'no image'} ({have}; what follows the first dot of "
            "a file's name is its kind); write this shard again with one image for each sample"
        )
    if LABEL not in sample:
        raise UserError(
            f"{path}: sample {key} has no label ({have}); write this shard again with a file {key}.{LABEL} that holds "
            "the number or the name of its class"
        )
    _, first, size = sample[LABEL]
    label = read_part(path, first, size).decode("utf-8", "replace").strip()
    if not label or "\n" in label or "\0" in label:
        raise UserError(f"{path}: the label {key}.{LABEL} is {label[:40]!r}, which is no class; write its number or its name")
    name, first, size = sample[images[0]]
    if size == 0:
        raise UserError(f"{path}: the image {name} is empty; write this shard again")
    return Member(name, str(int(label)) if label.isascii() and label.isdigit() else label, first, size)


def _files(path: str) -> Iterator[tuple[str, int, int]]:
    """Name, first byte and size of every file of a tar file, in order. Raises UserError where it is no whole tar file."""
    known: dict[str, tuple[int, int]] = {}
    try:
        length = os.path.getsize(path)
        with tarfile.open(path, "r:") as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # which tarfile would keep
                if member.isdir():
                    continue
                place = known.get(_plain(member.linkname)) if member.islnk() else (member.offset_data, member.size)
                if place is None or not (member.isreg() or member.islnk()) or member.issparse():
                    raise UserError(
                        f"{path}: {member.name} is a link, a device or a sparse file; write this shard again "
                        "with files only (tar --dereference)"
                    )
                if sum(place) > length:
                    raise UserError(f"{path} is cut off within {member.name}; copy or write it again")
                known[_plain(member.name)] = place
                yield _plain(member.name), *place
            end = tar.offset
        _check_end(path, end, length)
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        raise UserError(f"cannot read the shard {path} ({str(error) or type(error).__name__}); copy or write it again") from None


def _plain(name: str) -> str:
    """The name of a member without ./ before it."""
    return re.sub(r"^(?:\./)+", "", name)


def _check_end(path: str, end: int, length: int) -> None:
    """Raise UserError where reading ended before the file does: at a damaged header, which tarfile takes for the end, or at the end
    of the first of several tar files in one.
    """
    while end < length:
        part = read_part(path, end, min(2**20, length - end))
        if part.strip(b"\0"):
            place = end + len(part) - len(part.lstrip(b"\0"))
            raise UserError(
                f"{path} cannot be read beyond byte {place} of {length}: it is damaged, or several tar files in one; "
                "copy or write it again"
            )
        end += len(part)


def _check_copies(paths: dict[str, list[str]], members: dict[str, list[list[Member]]]) -> None:
    """Raise UserError where one image, by its name in the shard, label, size and content, is in two shards."""
    placed = [
        (path, member) for split in SPLITS for path, shard in zip(paths[split], members[split], strict=True) for member in shard
    ]
    count = Counter((member.name, member.label, member.size) for _, member in placed)
    if len(count) == len(placed):
        return
    first: dict[tuple, tuple[str, Member]] = {}
    repeated = [(path, member) for path, member in placed if count[member.name, member.label, member.size] > 1]
    repeated.sort(key=lambda one: (one[1].name, one[1].label, one[1].size))
    for path, member in repeated[:COMPARED]:  # not all: names that begin anew in each shard repeat too
        known = member.name, member.label, member.size
        other, there = first.setdefault(known, (path, member))
        if other != path and read_part(path, member.first, member.size) == read_part(other, there.first, there.size):
            raise UserError(
                f"{other} and {path} hold the same image {member.name}; remove one of the shards, or write them again "
                "without repetitions"
            )


def _sorted(labels: set[str]) -> list[str]:
    numbers = all(label.isascii() and label.isdigit() for label in labels)
    return sorted(labels, key=int if numbers else None)
