"""What of a network a sub-network can name: read off its modules, so that no network has to declare it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from pretrain.slimmable.base import BlockRule, ParametersAtWidth, Resize, Skippable, Slimmable
from pretrain.slimmable.patches import KeepPatches, patches_kept
from rundir.subnet import Subnet, Width, width_key

_FOUND: WeakKeyDictionary[nn.Module, Structure] = WeakKeyDictionary()


@dataclass(frozen=True)
class Structure:
    """What can vary in a network.

    Attributes:
        stages: stages that can have a width each; 1: all layers follow one width.
        depths: blocks of each stage; () where none can be skipped.
        shortest: how many of these always run.
        kernels: sides that the elastic convolutions of each stage can have, largest first; () where there are none.
        heads, mlp: the rules for the attention heads and the hidden layer of each block of a ViT.
        multiple: of which a resolution must be one; 0: the network takes images as they come.
        patches: whether it computes on patches, of which some can be left out.
        complete: whether it is a whole network; a part cannot tell what the whole has, and takes everything.
    """

    stages: int = 1
    depths: tuple[int, ...] = ()
    shortest: tuple[int, ...] = ()
    kernels: tuple[tuple[int, ...], ...] = ()
    heads: tuple[BlockRule, ...] = ()
    mlp: tuple[BlockRule, ...] = ()
    multiple: int = 0
    patches: bool = False
    complete: bool = False

    def check(self, subnet: Subnet) -> None:
        """Raise :class:`ValueError` if the network has no such sub-network, in one line with what to set."""
        if not self.complete:
            return
        self._check_widths(subnet)
        allowed: dict[str, list[Any]] = {
            "d": [range(low, high + 1) for low, high in zip(self.shortest, self.depths, strict=True)],
            "k": list(self.kernels),
            "h": [range(1, int(rule.most) + 1) for rule in self.heads],
            "m": [rule.most for rule in self.mlp],
        }
        for letter, values, what in (
            ("d", subnet.depth, "blocks that can be skipped"),
            ("k", subnet.kernel, "elastic kernels"),
            ("h", subnet.heads, "attention heads"),
            ("m", subnet.mlp, "MLP ratios"),
        ):
            if values is not None:
                self._check_list(letter, values, allowed[letter], what)
        if subnet.resolution is not None and not self.multiple:
            raise ValueError(f"r{subnet.resolution}: this network takes images as they are; leave out r{subnet.resolution}")
        if subnet.resolution is not None and subnet.resolution % self.multiple:
            raise ValueError(
                f"r{subnet.resolution} is not a whole number of patches of {self.multiple} pixels; set a multiple of "
                f"{self.multiple}, such as r{max(1, subnet.resolution // self.multiple) * self.multiple}"
            )
        if subnet.patches is not None and not self.patches:
            raise ValueError(f"p{subnet.patches:g}: this network has no patches; leave out p{subnet.patches:g}")

    def check_size(self, width: Width, size: int) -> None:
        """Raise :class:`ValueError` if ``width`` keeps nothing of images of ``size`` pixels, in one line with what to set."""
        if self.patches and isinstance(width, Subnet) and width.patches is not None:
            side = (width.resolution or size) // self.multiple
            patches_kept(side, side, width.patches)

    def _check_widths(self, subnet: Subnet) -> None:
        given = len(subnet.widths)
        if given > 1 and self.stages == 1:
            raise ValueError(f"w with {given} widths: all layers of this network follow one width; set one, such as w0.5")
        if given not in (1, self.stages):
            raise ValueError(
                f"w has {given} widths and the network {self.stages} stages; set one for each, or one for all such as w0.5"
            )

    def _check_list(self, letter: str, values: tuple, allowed: list, what: str) -> None:
        if not allowed:
            raise ValueError(f"{letter}[...]: this network has no {what}; leave it out")
        if len(values) != len(allowed):
            raise ValueError(
                f"{letter} has {len(values)} numbers and the network needs {len(allowed)}, one for each "
                f"{'block' if letter in 'hm' else 'stage'}; set for example {_list(letter, allowed)}"
            )
        for number, (value, choices) in enumerate(zip(values, allowed, strict=True), start=1):
            if value > choices if letter == "m" else value not in choices:
                raise ValueError(
                    f"{letter} has {value:g} at place {number}, where the network has {_shown(choices)}; set one of these"
                )

    def heads_at(self, width: Width) -> tuple[int, ...]:
        """Attention heads of each block of a ViT."""
        return tuple(int(rule(width) * rule.most // rule.channels) for rule in self.heads)

    def canonical(self, subnet: Subnet) -> Width:
        """``subnet`` without what it names but keeps whole; a plain width where nothing else is left.

        Raises:
            ValueError: the network has no such sub-network.
        """
        self.check(subnet)
        if not self.complete:
            return subnet.canonical
        named: dict[str, Any] = {}
        if subnet.heads is not None:  # those that nothing would read are not computed
            named["heads"] = self.heads_at(subnet)
        if subnet.depth == self.depths:
            named["depth"] = None
        if subnet.patches == 1:
            named["patches"] = None
        if subnet.kernel == tuple(sides[0] for sides in self.kernels):
            named["kernel"] = None
        for name, rules in (("heads", self.heads), ("mlp", self.mlp)):
            without = dataclasses.replace(subnet, **{name: None})
            if getattr(subnet, name) is not None and all(rule(subnet) == rule(without) for rule in rules):
                named[name] = None
        return dataclasses.replace(subnet, **named).canonical


def structure_of(model: nn.Module) -> Structure:
    """The structure of ``model``, by its modules; found once, since it never changes."""
    if model not in _FOUND:
        _FOUND[model] = _structure(model)
    return _FOUND[model]


def _structure(model: nn.Module) -> Structure:
    stages, multiple, patches, complete = 1, 0, False, False
    places: dict[int, list[Skippable]] = {}
    kernels: dict[int, set[int]] = {}
    by_block: dict[str, dict[int, BlockRule]] = {"heads": {}, "mlp": {}}
    for module in model.modules():
        multiple = max(multiple, module.multiple if isinstance(module, Resize) else 0)
        patches |= isinstance(module, KeepPatches)
        complete |= isinstance(module, ParametersAtWidth)
        if isinstance(module, Skippable) and module.stage is not None:
            places.setdefault(module.stage, []).append(module)
        if isinstance(module, Slimmable):
            for rule in filter(None, (module.channels_in, module.channels_out)):
                stages = max(stages, 1 + (rule.stage or 0) if rule.sliced else 0)
                if isinstance(rule, BlockRule):
                    by_block[rule.named].setdefault(rule.block, rule)
            if module.kernels:
                kernels.setdefault(module.kernel_stage, set()).update(module.kernels)
    blocks = [places[stage] for stage in sorted(places)]
    if not any(block.optional for stage in blocks for block in stage):
        blocks = []
    heads, mlp = (tuple(found[block] for block in sorted(found)) for found in by_block.values())
    return Structure(
        stages,
        tuple(map(len, blocks)),
        tuple(sum(not block.optional for block in stage) for stage in blocks),
        tuple(tuple(sorted(kernels[stage], reverse=True)) for stage in sorted(kernels)),
        heads,
        mlp,
        multiple,
        patches,
        complete,
    )


def canonical(model: nn.Module, width: Width) -> Width:
    """``width`` by which ``model`` looks it up: a plain width as :func:`rundir.subnet.width_key` has it, a sub-network without what
    it names but keeps whole.

    Raises:
        ValueError: ``model`` has no such sub-network.
    """
    found = width_key(width)
    return structure_of(model).canonical(found) if isinstance(found, Subnet) else found


def _list(letter: str, allowed: list) -> str:
    most = [choices if letter == "m" else max(choices) for choices in allowed]
    return f"{letter}[{','.join(f'{value:g}' for value in most)}]"


def _shown(choices) -> str:
    if isinstance(choices, range):
        return f"from {choices.start} to {choices.stop - 1}"
    return f"at most {choices:g}" if isinstance(choices, int | float) else " or ".join(map(str, choices))
