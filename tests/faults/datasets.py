"""Data sets that are odd or damaged: what only looks different trains the same network, the damaged are refused before training."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

import transfer.run as transfer_run
from pretrain import run as pretrain_run
from tests.faults import damage, ground
from tests.faults.cases import Case, Verdict, refusal
from tests.faults.fork import program
from tests.faults.ground import Failed, Ground, asked
from tests.faults.kills import difference

FOLDER = [
    *(word for word in ground.TRAIN if not word.startswith(("data.", "augment.flip"))),
    "data.name=folder",
    "data.root=data",
    "data.size=8",
]
VOC = [
    *ground.DETECT[:3],
    "--dataset",
    "voc",
    "--out",
    "scores",
    *["data" if word == "scenes" else word for word in ground.DETECT[3:]],
]
COCO = ["coco" if word == "voc" else word for word in VOC]
MASKS = [
    "segmentation",
    "--checkpoint",
    "run",
    "--dataset",
    "voc",
    "--data-dir",
    "data",
    "--model",
    "fcn",
    "--widths",
    "1.0",
    "--iterations",
    "2",
    "--batch-size",
    "2",
    "--pictures",
    "0",
    "--scale",
    "48",
    "48",
    "--crop",
    "32",
    "32",
    "--out",
    "scores",
]
Change = Callable[[Path, random.Random], object]


# -- an image folder ------------------------------------------------------------------------------------------------------


def write_folder(root: Path) -> None:
    """Two classes of noisy grey pictures, 16 for training and 4 for validation each."""
    noise = np.random.default_rng(0)
    for split, count in (("train", 16), ("val", 4)):
        for name, level in (("ants", 60), ("bees", 160)):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                grey = (level + noise.integers(-40, 40, (12, 12))).astype(np.uint8)
                Image.fromarray(np.repeat(grey[..., None], 3, 2)).save(root / split / name / f"{i:03d}.png")


def _picture(root: Path, rng: random.Random) -> Path:
    return rng.choice(sorted((root / "train").rglob("*.png")))


def hidden_files(root: Path, rng: random.Random) -> None:
    for name in (".DS_Store", "._000.png", "Thumbs.db", "desktop.ini"):
        (_picture(root, rng).parent / name).write_bytes(b"\0\5\x16\7")


def a_text_beside(root: Path, rng: random.Random) -> None:
    (_picture(root, rng).parent / rng.choice(["notes.txt", "labels.csv", "LICENSE"])).write_text("hello\n")


def a_mac_folder(root: Path, rng: random.Random) -> None:
    (root / "__MACOSX" / "train").mkdir(parents=True)
    (root / "train" / "__MACOSX").mkdir()
    (root / "train" / ".git").mkdir()


def names_of_people(root: Path, rng: random.Random) -> None:
    for split in ("train", "val"):
        (root / split / "ants").rename(root / split / "Ameisen (große) – 'x'")
        (root / split / "bees").rename(root / split / "bees & wasps 100%")


def large_suffixes(root: Path, rng: random.Random) -> None:
    for path in (root / "train").rglob("*.png"):
        path.rename(path.with_suffix(".PNG"))


def linked(root: Path, rng: random.Random) -> None:
    root.rename(root.with_name("elsewhere"))
    root.symlink_to("elsewhere")


def linked_pictures(root: Path, rng: random.Random) -> None:
    store = root.with_name("store")
    store.mkdir()
    for number, path in enumerate(sorted((root / "train").rglob("*.png"))):
        path.rename(store / str(number))
        path.symlink_to(store / str(number))


def other_modes(root: Path, rng: random.Random) -> None:
    """The same pixels as one channel, with an opaque alpha, with a palette."""
    for path in sorted((root / "train").rglob("*.png")):
        Image.open(path).convert(rng.choice(["L", "RGBA", "RGB"])).save(path)


def upright_by_exif(root: Path, rng: random.Random) -> None:
    for path in (root / "train").rglob("*.png"):
        picture = Image.open(path)
        picture.load()
        exif = Image.Exif()
        exif[0x0112] = 1
        picture.save(path, exif=exif)


def cut_picture(root: Path, rng: random.Random) -> None:
    path = _picture(root, rng)
    os.truncate(path, rng.randrange(20, path.stat().st_size - 20))


def empty_picture(root: Path, rng: random.Random) -> None:
    _picture(root, rng).write_bytes(b"")


def text_picture(root: Path, rng: random.Random) -> None:
    _picture(root, rng).write_text("<html>404</html>")


def pipe_picture(root: Path, rng: random.Random) -> None:
    damage.pipe(_picture(root, rng), rng)


def lost_picture(root: Path, rng: random.Random) -> None:
    damage.dangling(_picture(root, rng), rng)


def picture_bomb(root: Path, rng: random.Random) -> None:
    """A header that says 60,000 x 60,000 pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    _picture(root, rng).write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + chunk(b"IEND", b"")
    )


def no_training(root: Path, rng: random.Random) -> None:
    shutil.rmtree(root / "train")


def empty_class(root: Path, rng: random.Random) -> None:
    for path in (root / "train" / rng.choice(["ants", "bees"])).iterdir():
        path.unlink()


def too_few(root: Path, rng: random.Random) -> None:
    for path in sorted((root / "train").rglob("*.png"))[4:]:
        path.unlink()


# -- boxes in VOC's layout ------------------------------------------------------------------------------------------------


def _annotation(root: Path, rng: random.Random) -> Path:
    names = (root / "ImageSets/Main/trainval.txt").read_text().split()
    return root / "Annotations" / f"{rng.choice(names)}.xml"


def _edited(path: Path, pattern: str, new: str) -> None:
    text = path.read_text()
    changed = re.sub(pattern, lambda _: new, text, count=1, flags=re.S)
    assert changed != text, f"nothing to change in {path}"
    path.write_text(changed)


def _list(root: Path) -> Path:
    return root / "ImageSets/Main/trainval.txt"


def byte_order_mark(root: Path, rng: random.Random) -> None:
    _list(root).write_bytes(b"\xef\xbb\xbf" + _list(root).read_bytes())


def windows_lines(root: Path, rng: random.Random) -> None:
    _list(root).write_bytes(_list(root).read_bytes().replace(b"\n", b"\r\n"))


def blank_lines(root: Path, rng: random.Random) -> None:
    _list(root).write_text("\n" + _list(root).read_text().replace("\n", "  \n\n"))


def cut_annotation(root: Path, rng: random.Random) -> None:
    damage.cut(_annotation(root, rng), rng)


def without_a_tag(root: Path, rng: random.Random) -> None:
    tag = rng.choice(["name", "bndbox", "xmin"])
    _edited(_annotation(root, rng), rf"<{tag}>.*?</{tag}>", "")


def box_that_is_none(root: Path, rng: random.Random) -> None:
    word = rng.choice(["nan", "inf", "-5", "9999", "abc", "", "1e999"])
    tag = rng.choice(["xmin", "ymin", "xmax", "ymax"])
    _edited(_annotation(root, rng), rf"<{tag}>[^<]*</{tag}>", f"<{tag}>{word}</{tag}>")


def names_that_leave(root: Path, rng: random.Random) -> None:
    name = rng.choice(["../../outside", "/etc/passwd", "a/../../../b", "..", "x\0y"])
    _list(root).write_text(_list(root).read_text() + name + "\n")


def unlisted_picture(root: Path, rng: random.Random) -> None:
    _list(root).write_text(_list(root).read_text() + "no-such-picture\n")


def twice_in_the_list(root: Path, rng: random.Random) -> None:
    _list(root).write_text(_list(root).read_text() + _list(root).read_text().split()[0] + "\n")


def empty_list(root: Path, rng: random.Random) -> None:
    _list(root).write_text(rng.choice(["", "\n\n"]))


def xml_bomb(root: Path, rng: random.Random) -> None:
    entities = '<!ENTITY a "xxxxxxxxxx">' + "".join(f'<!ENTITY {chr(98 + i)} "{f"&{chr(97 + i)};" * 10}">' for i in range(9))
    _annotation(root, rng).write_text(
        f"<!DOCTYPE annotation [{entities}]><annotation><object><name>&j;</name></object></annotation>"
    )


# -- boxes and masks in COCO's ----------------------------------------------------------------------------------------------


def _coco(change: Callable[[dict, random.Random], object]) -> Change:
    def changed(root: Path, rng: random.Random) -> None:
        path = root / "annotations" / "instances_train2017.json"
        content = json.loads(path.read_text())
        change(content, rng)
        path.write_text(json.dumps(content))

    changed.__name__ = change.__name__
    return changed


def _one(content: dict, rng: random.Random) -> dict:
    return rng.choice(content["annotations"])


@_coco
def ids_from_zero(content: dict, rng: random.Random) -> None:
    for number, annotation in enumerate(content["annotations"]):
        annotation["id"] = number


@_coco
def further_fields(content: dict, rng: random.Random) -> None:
    content |= {"info": {"year": "x"}, "licenses": None}
    for image in content["images"]:
        image["flickr_url"] = None


@_coco
def a_bad_box(content: dict, rng: random.Random) -> None:
    _one(content, rng)["bbox"] = rng.choice(
        [
            [float("nan"), 1, 5, 5],
            [1, 1, -5, 5],
            [1, 1, 5],
            "box",
            None,
            [1, 1, "a", 5],
            [9999, 1, 5, 5],
            [0.1, 0.1, 0.2, float("inf")],
        ]
    )


@_coco
def a_bad_id(content: dict, rng: random.Random) -> None:
    _one(content, rng)[rng.choice(["category_id", "image_id"])] = rng.choice([99999, None, "a", -1, [1]])


@_coco
def one_id_twice(content: dict, rng: random.Random) -> None:
    content["annotations"][1]["id"] = content["annotations"][0]["id"]


@_coco
def a_field_is_missing(content: dict, rng: random.Random) -> None:
    del _one(content, rng)[rng.choice(["bbox", "image_id", "category_id"])]


@_coco
def a_list_is_missing(content: dict, rng: random.Random) -> None:
    del content[rng.choice(["images", "annotations", "categories"])]


@_coco
def an_image_twice(content: dict, rng: random.Random) -> None:
    content["images"].append(dict(content["images"][0]))


@_coco
def a_name_that_leaves(content: dict, rng: random.Random) -> None:
    content["images"][0]["file_name"] = rng.choice(["../outside.png", "/etc/passwd", 5, None, ""])


def coco_text(root: Path, rng: random.Random) -> None:
    how = rng.choice([damage.cut, damage.noise, damage.deep, damage.pipe, damage.empty])
    how(root / "annotations/instances_train2017.json", rng)


# -- masks ----------------------------------------------------------------------------------------------------------------


def _mask(root: Path, rng: random.Random) -> Path:
    return root / "SegmentationClass" / f"{rng.choice((root / 'ImageSets/Segmentation/train.txt').read_text().split())}.png"


def blank_lines_of_masks(root: Path, rng: random.Random) -> None:
    path = root / "ImageSets/Segmentation/train.txt"
    path.write_text(path.read_text().replace("\n", "\n\n"))


def a_class_too_many(root: Path, rng: random.Random) -> None:
    path = _mask(root, rng)
    Image.fromarray(np.full(np.array(Image.open(path)).shape[:2], 77, np.uint8)).save(path)


def a_coloured_mask(root: Path, rng: random.Random) -> None:
    path = _mask(root, rng)
    Image.open(path).convert("RGB").save(path)


def a_mask_of_another_size(root: Path, rng: random.Random) -> None:
    path = _mask(root, rng)
    Image.fromarray(np.zeros((7, 9), np.uint8)).save(path)


def a_broken_mask(root: Path, rng: random.Random) -> None:
    rng.choice([damage.cut, damage.empty, damage.noise, damage.missing, damage.pipe])(_mask(root, rng), rng)


# -------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Layout:
    """A layout of data: who reads it, what is written of it, and the changes to it: to some nothing may change."""

    name: str
    main: Callable
    argv: list[str]
    same: tuple[Change, ...]
    damaged: tuple[Change, ...]


LAYOUTS = (
    Layout(
        "folder",
        pretrain_run.main,
        FOLDER,
        (
            hidden_files,
            a_text_beside,
            a_mac_folder,
            names_of_people,
            large_suffixes,
            linked,
            linked_pictures,
            other_modes,
            upright_by_exif,
        ),
        (cut_picture, empty_picture, text_picture, pipe_picture, lost_picture, picture_bomb, no_training, empty_class, too_few),
    ),
    Layout(
        "VOC",
        transfer_run.main,
        VOC,
        (byte_order_mark, windows_lines, blank_lines),
        (
            cut_annotation,
            without_a_tag,
            box_that_is_none,
            names_that_leave,
            unlisted_picture,
            twice_in_the_list,
            empty_list,
            xml_bomb,
        ),
    ),
    Layout(
        "COCO",
        transfer_run.main,
        COCO,
        (ids_from_zero, further_fields),
        (a_bad_box, a_bad_id, one_id_twice, a_field_is_missing, a_list_is_missing, an_image_twice, a_name_that_leaves, coco_text),
    ),
    Layout(
        "masks",
        transfer_run.main,
        MASKS,
        (blank_lines_of_masks,),
        (a_class_too_many, a_coloured_mask, a_mask_of_another_size, a_broken_mask),
    ),
)


def cases(count: int, base: Ground, rng: random.Random) -> list[Case]:
    """``count`` data sets: every change once, as far as there is room, then some again."""
    every = [(layout, change) for layout in LAYOUTS for change in (*layout.same, *layout.damaged)]
    chosen = [*every, *rng.choices(every, k=max(0, count - len(every)))] if count >= len(every) else rng.sample(every, count)
    wanted = {layout.name: _whole(layout, base) for layout in {layout.name: layout for layout, _ in chosen}.values()}
    return [
        Case(f"data {layout.name}", f"{number} {change.__name__}", _case(layout, change, base, wanted[layout.name]))
        for number, (layout, change) in enumerate(chosen)
    ]


def _begin(layout: Layout, base: Ground, folder: Path) -> Path:
    """The data, unharmed, and what reads them."""
    if layout.name == "folder":
        write_folder(folder / "data")
    else:
        damage.copy(base.detected, folder)
        (folder / "scenes").rename(folder / "data")
    return folder / "data"


def _result(folder: Path) -> object:
    if (folder / "scores").exists():
        return [{key: record[key] for key in ("metric", "width", "value", "count")} for record in ground.records(folder / "scores")]
    return ground.digest(folder / "run")


def _whole(layout: Layout, base: Ground) -> str:
    folder = base.folder / "data" / layout.name
    _begin(layout, base, folder)
    ended = program(layout.main, layout.argv, folder)
    if ended.code != 0:
        raise Failed(f"{layout.name} data without a fault ended with {ended.code}: {ended.last()}")
    return asked(_result, folder)


def _case(layout: Layout, change: Change, base: Ground, wanted: str) -> Callable[[Path, random.Random], Verdict]:
    def run(folder: Path, rng: random.Random) -> Verdict:
        change(_begin(layout, base, folder), rng)
        ended = program(layout.main, layout.argv, folder)
        if ended.code == 0:
            found = asked(_result, folder)
            return Verdict("equal") if found == wanted else Verdict.wrong(f"taken, and not equal: {difference(wanted, found)}")
        verdict = refusal(ended)
        if verdict.kind == "refused" and change in layout.same:
            return Verdict.wrong(f"refused, though only its looks differ: {ended.last()}")
        return verdict

    return run
