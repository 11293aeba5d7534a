"""A sub-network as a value: what it keeps of a network's widths, depths, kernels, attention heads, resolution and patches.

    w0.5                                 half the channels of every stage
    w[1,.75,.5,.5]d[2,1,2,2]k[3,5,3,3]   a width, a number of blocks and a kernel for each stage
    w1d[3,2,2,3]h[6,6,4,4]m[4,4,3,3]r128 a ViT: blocks by quarter, heads and MLP ratio by block; images of 128 pixels
    w0.5p0.5                             a ViT whose blocks compute on half of the patches

What is not named is whole. Which values a network has: :class:`pretrain.slimmable.Space`.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias, Union

DIGITS = 6  # of a width: 0.1 + 0.2 and 0.3 are one
EXAMPLES = {
    "w": "w[1,.75,.5,.5]",
    "d": "d[2,1,2,2]",
    "k": "k[3,5,3,3]",
    "h": "h[4,2,4,4]",
    "m": "m[4,3,3,2]",
    "r": "r128",
    "p": "p0.5",
}
EXAMPLE = "".join(EXAMPLES[letter] for letter in "wdkr")
LETTERS = {"w": "width", "d": "depth", "k": "kernel", "h": "heads", "m": "mlp", "r": "resolution", "p": "patches"}
DIMENSIONS = tuple(LETTERS.values())  # of a sub-network, in which networks can vary
PART = re.compile(r"([a-z])(?:\[([^\[\]]*)\]|([0-9.][0-9.]*(?:e-?[0-9]+)?))")


@functools.total_ordering
@dataclass(frozen=True)
class Subnet:
    """What a sub-network keeps. None: all of it.

    Sub-networks and plain widths are ordered among each other by their mean width, of equal ones the plain width last, so that a
    list of both is sorted widest first by ``reverse=True`` as a list of widths is.

    Attributes:
        width: share of the channels in (0, 1], one for all stages or one for each; equal ones become one.
        depth: blocks of each stage (of a ViT: of each quarter of its blocks), the last ones being skipped.
        kernel: side of the convolutions of each stage that are elastic.
        resolution: side in pixels of the images that the network computes on.
        heads, mlp: attention heads and MLP ratio (hidden over embedded channels) of each block of a ViT.
        patches: share, in (0, 1], of the patches of an image that the blocks of a ViT compute on.

    Raises:
        ValueError: a number is not possible for any network.
    """

    width: float | tuple[float, ...] = 1.0
    depth: tuple[int, ...] | None = None
    kernel: tuple[int, ...] | None = None
    resolution: int | None = None
    heads: tuple[int, ...] | None = None
    mlp: tuple[float, ...] | None = None
    patches: float | None = None

    def __post_init__(self):
        widths = self.width if isinstance(self.width, tuple | list) else (self.width,)
        kept = tuple(round(_number(w, "w", "a number above 0 and at most 1", low=0, high=1), DIGITS) for w in widths)
        if not kept or not all(kept):
            raise ValueError(f"w{list(kept)} has no width above 0; set w0.5, or one for each stage as in w[1,.75,.5,.5]")
        object.__setattr__(self, "width", kept[0] if len(set(kept)) == 1 else kept)
        for letter, low in (("d", -1), ("k", 0), ("h", 0)):
            self._keep(letter, lambda n, letter=letter, low=low: _whole(n, letter, low))
        self._keep("m", lambda ratio: round(_number(ratio, "m", "a number above 0", low=0), DIGITS))
        if any(side % 2 == 0 for side in self.kernel or ()):
            raise ValueError(f"k{list(self.kernel or ())} has an even kernel, which has no centre; set odd ones such as k[3,5,3,3]")
        if self.resolution is not None:
            object.__setattr__(self, "resolution", _whole(self.resolution, "r", 0))
        if self.patches is not None:
            kept_patches = round(_number(self.patches, "p", "a number above 0 and at most 1", low=0, high=1), DIGITS)
            if not kept_patches:
                raise ValueError(f"p{_short(self.patches)} keeps no patch; set for example {EXAMPLES['p']}")
            object.__setattr__(self, "patches", kept_patches)

    def _keep(self, letter: str, kept) -> None:
        values = getattr(self, LETTERS[letter])
        if values is None:
            return
        if not isinstance(values, tuple | list) or not values:
            raise ValueError(
                f"{letter} is {values!r}, not a list with one number for each stage or block; set for example {EXAMPLES[letter]}"
            )
        object.__setattr__(self, LETTERS[letter], tuple(map(kept, values)))

    @property
    def canonical(self) -> Width:
        """A plain width where nothing but one width for all stages is named; else itself."""
        return self.width if self == Subnet(self.width) and not isinstance(self.width, tuple) else self

    @property
    def widths(self) -> tuple[float, ...]:
        """The width of each stage, or the one of all."""
        return self.width if isinstance(self.width, tuple) else (self.width,)

    def width_of(self, stage: int | None) -> float:
        """The width of a stage; of what belongs to none (None) the first's."""
        return self.width[stage or 0] if isinstance(self.width, tuple) else self.width

    def __str__(self) -> str:
        written = [f"w{_list(self.width) if isinstance(self.width, tuple) else _short(self.width)}"]
        for letter in "dkhm":
            values = getattr(self, LETTERS[letter])
            written += [f"{letter}{_list(values)}"] if values is not None else []
        written += [f"r{self.resolution}"] if self.resolution is not None else []
        return "".join(written) + (f"p{_short(self.patches)}" if self.patches is not None else "")

    def __format__(self, spec: str) -> str:
        """As a plain width is formatted: what asks for a number of digits gets the string."""
        return format(str(self), re.sub(r"(\.\d+)?[gf]$", "", spec))

    def __lt__(self, other: Width) -> bool:
        return _rank(self) < _rank(other) if isinstance(other, Subnet | float | int) else NotImplemented

    @classmethod
    def parse(cls, text: str) -> Subnet:
        """What :meth:`__str__` printed, or a plain width such as ``0.5``.

        Raises:
            ValueError: it is neither; in one line with what to write.
        """
        bare = "".join(text.split())
        try:
            return cls(float(bare))
        except ValueError:
            if re.fullmatch(r"[-+0-9.e]+|inf|nan", bare):
                raise ValueError(f"sub-network {text!r} is not a width above 0 and at most 1; set for example 0.5") from None
        found: dict[str, object] = {}
        place = 0
        while place < len(bare):
            part = PART.match(bare, place)
            if part is None or part[1] not in LETTERS:
                raise ValueError(
                    f"sub-network {text!r} is not understood from {bare[place:]!r} on; set for example {EXAMPLE}, of "
                    f"{', '.join(f'{letter} ({name})' for letter, name in LETTERS.items())}"
                )
            if LETTERS[part[1]] in found:
                raise ValueError(f"sub-network {text!r} names {part[1]} twice; leave one of them out")
            found[LETTERS[part[1]]] = _parsed(text, *part.groups())
            place = part.end()
        if not found:
            raise ValueError(f"sub-network {text!r} is empty; set for example 0.5 or {EXAMPLE}")
        try:
            return cls(**found)  # type: ignore[arg-type]
        except ValueError as error:
            raise ValueError(f"sub-network {text!r}: {error}") from None


Width: TypeAlias = Union[float, Subnet]  # noqa: UP007  # evaluated at run time


@functools.lru_cache(10_000)
def width_key(width: Width) -> Width:
    """A width, plain or a sub-network, as it is used for look-ups: 0.1 + 0.2 and 0.3 are one, and so are 0.5 and w0.5."""
    return width.canonical if isinstance(width, Subnet) else round(float(width), DIGITS)


def parse_width(text: str) -> Width:
    """A plain width where ``text`` is one, else a sub-network; ValueError as :meth:`Subnet.parse` has it."""
    return Subnet.parse(text).canonical


def as_widths(values: Iterable[float | str]) -> list[Width]:
    """Widths as a config holds them: numbers, and sub-networks as text."""
    return [parse_width(value) if isinstance(value, str) else value for value in values]


def as_text(widths: Iterable[Width]) -> str:
    """Widths as YAML that a config reads: ``[1.0, "w[1,.75,.5,.5]"]``."""
    return json.dumps([str(width) if isinstance(width, Subnet) else width for width in widths])


def plain_widths(widths: Iterable[Width]) -> list[float]:
    """Those that are no sub-networks."""
    return [width for width in widths if not isinstance(width, Subnet)]


def widest(width: Width) -> float:
    """The widest of its stages."""
    return max(width.widths) if isinstance(width, Subnet) else width


def narrowest(width: Width) -> float:
    """The narrowest of its stages."""
    return min(width.widths) if isinstance(width, Subnet) else width


def label(width: Width) -> str:
    """A width in names of files and directories: ``w0.5``, ``w1-.75-.5-.5_d2-1-2-2``."""
    if not isinstance(width, Subnet):
        return f"w{width:g}"
    return str(width).replace("[", "").replace("]", "_").replace(",", "-").strip("_")


def _rank(width: Width) -> tuple[float, bool, str]:
    if not isinstance(width, Subnet):
        return round(float(width), DIGITS), True, ""
    return round(sum(width.widths) / len(width.widths), DIGITS), False, str(width)


def _parsed(text: str, letter: str, several: str | None, one: str | None) -> object:
    """The value of one part of ``text``: a list's, or a single number's."""
    kind = float if letter in "wmp" else int
    if several is not None and letter in "rp":
        raise ValueError(
            f"sub-network {text!r} has a list for {letter} ({LETTERS[letter]}), which is one for the whole network; "
            f"set one number, such as {EXAMPLES[letter]}"
        )
    if several is None and letter in "dkhm":
        raise ValueError(
            f"sub-network {text!r} has one number for {letter}; set a list with one for each stage or block, such as "
            f"{EXAMPLES[letter]}"
        )
    try:
        return kind(one) if one is not None else tuple(kind(value) for value in (several or "").split(","))
    except ValueError:
        raise ValueError(
            f"sub-network {text!r} has {one or several!r} for {letter}, which is not "
            f"{'numbers' if kind is float else 'whole numbers'}; set for example {EXAMPLES[letter]}"
        ) from None


def _number(value: object, letter: str, what: str, low: float, high: float = float("inf")) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low < value <= high or value == float("inf"):
        raise ValueError(f"{letter} has {value!r}, which is not {what}; set for example {EXAMPLES[letter]}")
    return float(value)


def _whole(value: object, letter: str, low: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low < value < 2**31:
        raise ValueError(
            f"{letter} has {value!r}, which is not a whole number of at least {low + 1}; set for example {EXAMPLES[letter]}"
        )
    return value


def _list(values: tuple[float, ...]) -> str:
    return f"[{','.join(_short(value).removeprefix('0') or '0' for value in values)}]"


def _short(value: float) -> str:
    """A number with at most six decimals, without trailing zeros."""
    return f"{value:.{DIGITS}f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
