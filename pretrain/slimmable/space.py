"""The sub-networks of a network as a set to draw from, to walk in and to search (once-for-all, arXiv 1908.09791, section 3)."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from torch import nn

from pretrain.slimmable.structure import Structure, structure_of
from rundir.subnet import DIGITS, DIMENSIONS, Subnet, Width

RATIOS = (4.0, 3.5, 3.0, 2.0)  # MLP ratios of a ViT; AutoFormer's (arXiv 2107.00651, table 1) and a smaller one
SHARES = (1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25)  # of the patches of an image
Genes = dict[str, list[Any]]


@dataclass(frozen=True)
class Space:
    """What can vary, and the values of each: every choice is a list, largest first, for each stage or block.

    A dimension that does not vary has one choice everywhere, or none where the network has not got it. Sub-networks are returned in
    canonical form: a plain width where nothing else is named.

    Attributes:
        structure: of the network.
        width: for each stage, or once where all follow one width.
        depth, kernel: for each stage. mlp: for each block of a ViT. resolution, patches: one list.
        heads: for each block of a ViT; empty where they follow the width.
    """

    structure: Structure
    width: tuple[tuple[float, ...], ...]
    depth: tuple[tuple[int, ...], ...] = ()
    kernel: tuple[tuple[int, ...], ...] = ()
    heads: tuple[tuple[int, ...], ...] = ()
    mlp: tuple[tuple[float, ...], ...] = ()
    resolution: tuple[tuple[int, ...], ...] = ()
    patches: tuple[tuple[float, ...], ...] = ()

    @property
    def largest(self) -> Width:
        """The largest value everywhere."""
        return self._made({name: [choices[0] for choices in self._choices(name)] for name in DIMENSIONS})

    @property
    def smallest(self) -> Width:
        """The smallest value everywhere."""
        return self._made({name: [choices[-1] for choices in self._choices(name)] for name in DIMENSIONS})

    @property
    def dimensions(self) -> tuple[str, ...]:
        """The dimensions that vary."""
        return tuple(name for name in DIMENSIONS if any(len(choices) > 1 for choices in self._choices(name)))

    def __len__(self) -> int:
        """How many combinations of choices there are; some may be the same network, where channels are rounded."""
        return math.prod(len(choices) for name in DIMENSIONS for choices in self._choices(name))

    def __contains__(self, width: Width) -> bool:
        try:
            genes = self._genes(width)
        except ValueError:
            return False
        return all(value in choices for name in DIMENSIONS for value, choices in zip(genes[name], self._choices(name), strict=True))

    def canonical(self, width: Width) -> Width:
        """``width`` as it is looked up; :class:`ValueError` if the network has no such sub-network."""
        return self.structure.canonical(width if isinstance(width, Subnet) else Subnet(width))

    def random(self, generator: Random) -> Width:
        """Every value drawn uniformly and independently."""
        return self._made({name: [generator.choice(choices) for choices in self._choices(name)] for name in DIMENSIONS})

    def mutate(self, width: Width, generator: Random, p: float = 0.1) -> Width:
        """Every value drawn anew with probability ``p``."""
        genes = self._genes(width)
        return self._made(
            {
                name: [
                    generator.choice(choices) if generator.random() < p else value
                    for value, choices in zip(genes[name], self._choices(name), strict=True)
                ]
                for name in DIMENSIONS
            }
        )

    def crossover(self, a: Width, b: Width, generator: Random) -> Width:
        """Every value from one of the two, each with probability one half."""
        first, second = self._genes(a), self._genes(b)
        return self._made(
            {name: [generator.choice(pair) for pair in zip(first[name], second[name], strict=True)] for name in DIMENSIONS}
        )

    def smaller(self, width: Width) -> list[Width]:
        """Those that differ by the next smaller value at one place: the steps of greedy slimming."""
        genes, found = self._genes(width), []
        for name in DIMENSIONS:
            for place, choices in enumerate(self._choices(name)):
                below = [value for value in choices if value < genes[name][place]]
                if below:
                    found.append(self._made(genes | {name: [*genes[name][:place], below[0], *genes[name][place + 1 :]]}))
        return found

    def uniform(self) -> list[Width]:
        """One width for all stages, all else at its largest, widest first."""
        genes = self._genes(self.largest)
        shared = [w for w in self.width[0] if all(w in choices for choices in self.width)]
        return [self._made(genes | {"width": [w] * len(self.width), "heads": []}) for w in shared]

    @property
    def axes(self) -> list[tuple[str, tuple]]:
        """What varies, place by place: a name such as ``width0``, and its choices, largest first."""
        return [
            (f"{name}{place}", choices)
            for name in DIMENSIONS
            for place, choices in enumerate(self._choices(name))
            if len(choices) > 1
        ]

    def values(self, width: Width) -> list[float]:
        """The value of ``width`` on each of the :attr:`axes`."""
        genes = self._genes(width)
        return [genes[name][place] for name in DIMENSIONS for place, choices in enumerate(self._choices(name)) if len(choices) > 1]

    def of_values(self, values: Sequence[float]) -> Width:
        """The sub-network with one of the choices on each of the :attr:`axes`."""
        left = iter(values)
        return self._made(
            {name: [next(left) if len(choices) > 1 else choices[0] for choices in self._choices(name)] for name in DIMENSIONS}
        )

    def along(self, dimension: str) -> Space:
        """The part in which ``dimension`` alone varies, all else being at its largest."""
        fixed: dict[str, Any] = {name: _fixed(name, self._choices(name)) for name in DIMENSIONS if name != dimension}
        return dataclasses.replace(self, **fixed)

    def path(self, steps: int = 64) -> list[Width]:
        """From the largest to the smallest network, all dimensions in step: after a share t of the way every stage or block has
        made the share t of its own steps, the last ones first; its widths all at once.
        """
        found = []
        for step in range(steps + 1):
            genes: Genes = {}
            for name in DIMENSIONS:
                lists = self._choices(name)
                early = [0.5 if name == "width" else (place + 0.5) / len(lists) for place in range(len(lists))]
                genes[name] = [
                    choices[min(len(choices) - 1, int(step / steps * (len(choices) - 1) + ahead * (step > 0) + 1e-9))]
                    for choices, ahead in zip(lists, early, strict=True)
                ]
            found.append(self._made(genes))
        return list(dict.fromkeys(found))

    def members(self) -> list[Width]:
        """All combinations of choices, each network once."""
        places = [(name, choices) for name in DIMENSIONS for choices in self._choices(name)]
        found = []
        for values in itertools.product(*(choices for _, choices in places)):
            genes: Genes = {name: [] for name in DIMENSIONS}
            for (name, _), value in zip(places, values, strict=True):
                genes[name].append(value)
            found.append(self._made(genes))
        return list(dict.fromkeys(found))

    def _choices(self, name: str) -> tuple[tuple, ...]:
        return getattr(self, name)

    def _genes(self, width: Width) -> Genes:
        """A value for every choice, those of ``width`` or the largest; :class:`ValueError` if it is not of this network."""
        subnet = width if isinstance(width, Subnet) else Subnet(width)
        self.structure.check(subnet)
        genes: Genes = {name: [choices[0] for choices in self._choices(name)] for name in DIMENSIONS}
        genes["width"] = [subnet.width_of(stage) for stage in range(len(self.width))]
        if self.heads:
            genes["heads"] = list(self.structure.heads_at(subnet))
        elif subnet.heads is not None:
            raise ValueError(f"{subnet} names heads, which follow the width here; leave them out")
        for name in ("depth", "kernel", "mlp"):
            if getattr(subnet, name) is not None:
                genes[name] = list(getattr(subnet, name))
        for name in ("resolution", "patches"):
            value = getattr(subnet, name)
            if value is not None and not self._choices(name):
                raise ValueError(f"{subnet} names {name}, which are all there anyway here; leave them out")
            if value is not None:
                genes[name] = [value]
        return genes

    def _made(self, genes: Genes) -> Width:
        named = {name: tuple(genes[name]) or None for name in ("depth", "kernel", "heads", "mlp")}
        side = genes["resolution"][0] if genes["resolution"] else None
        as_it_comes = side is None or side == self.resolution[0][0]
        return self.structure.canonical(
            Subnet(
                tuple(genes["width"]),
                **named,
                resolution=None if as_it_comes else side,
                patches=genes["patches"][0] if genes["patches"] else None,
            )
        )


def space_of(
    model: nn.Module,
    low: float = 0.25,
    high: float = 1.0,
    *,
    vary: Iterable[str] | None = None,
    widths: int = 13,
    shortest: Sequence[int] | None = None,
    kernels: Sequence[int] | None = None,
    resolutions: Sequence[int] = (),
) -> Space:
    """The sub-networks of ``model``.

    Args:
        low, high: narrowest and widest width of a stage.
        vary: dimensions of :data:`DIMENSIONS` that vary; None: all that the network has (the resolution where some are named).
        widths: how many widths a stage has, evenly spread, ends included.
        shortest: least number of blocks in each stage; None: those that cannot be skipped.
        kernels: sides that kernels are limited to; None: all that the network has.
        resolutions: sides of images in pixels; the largest is that of images as they come.

    Raises:
        ValueError: a dimension is not known or the network has not got it, or a limit is impossible.
    """
    structure = structure_of(model)
    found: dict[str, list[tuple]] = {
        "width": [_spread(low, high, widths)] * structure.stages,
        "depth": [
            tuple(range(full, least - 1, -1)) for full, least in zip(structure.depths, _shortest(structure, shortest), strict=True)
        ],
        "kernel": [tuple(side for side in sides if kernels is None or side in kernels) for sides in structure.kernels],
        "heads": [tuple(range(int(rule.most), 0, -1)) for rule in structure.heads],
        "mlp": [RATIOS] * len(structure.mlp),
        "resolution": [tuple(sorted(resolutions, reverse=True))] if resolutions else [],
        "patches": [SHARES] if structure.patches else [],
    }
    if not all(found["kernel"]):
        raise ValueError(f"kernels={list(kernels or ())} leaves a stage without one; set some of {structure.kernels[0]}")
    for side in resolutions:
        structure.check(Subnet(resolution=side))
    for name in vary or ():
        if name not in DIMENSIONS:
            raise ValueError(f"{name!r} is no dimension of a network; set some of {', '.join(DIMENSIONS)}")
        if not any(len(choices) > 1 for choices in found[name]):
            raise ValueError(f"this network has no elastic {name}; leave {name} out")
    fixed = [] if vary is None else [name for name in DIMENSIONS if name not in tuple(vary)]
    return Space(structure, **{name: _fixed(name, found[name]) if name in fixed else tuple(found[name]) for name in DIMENSIONS})


def _fixed(name: str, choices: Sequence[tuple]) -> tuple[tuple, ...]:
    """The largest of each alone; of heads nothing, so that they follow the width, and of patches, which are all there anyway."""
    return () if name in ("heads", "patches") else tuple(values[:1] for values in choices)


MOST_MEMBERS = 256  # of a space that is looked at whole


def of_equal_flops(space: Space, target: float, flops: Callable[[Width], float]) -> Width:
    """The network of ``space`` whose FLOPs are nearest to ``target`` by their ratio, of equally near ones the first: of all its
    members where these are few, else of its :meth:`Space.path`.
    """
    candidates = space.members() if len(space) <= MOST_MEMBERS else space.path()
    return min(candidates, key=lambda network: abs(math.log(flops(network) / target)))


def _spread(low: float, high: float, count: int) -> tuple[float, ...]:
    if not 0 < low <= high <= 1 or count < 1:
        raise ValueError(f"{count} widths from {low} to {high}; set at least one, and 0 < low <= high <= 1")
    return tuple(dict.fromkeys(round(high - i * (high - low) / max(1, count - 1), DIGITS) for i in range(count)))


def _shortest(structure: Structure, asked: Sequence[int] | None) -> Sequence[int]:
    if asked is None:
        return structure.shortest
    if len(asked) != len(structure.depths) or not all(
        least <= wanted <= full for least, wanted, full in zip(structure.shortest, asked, structure.depths, strict=True)
    ):
        raise ValueError(
            f"shortest={list(asked)} is not within {list(structure.shortest)} and {list(structure.depths)}; set one for each stage"
        )
    return asked
