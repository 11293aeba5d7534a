"""Which weights of a checkpoint were loaded into a detector or segmenter, name by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from rundir.schema import FORMAT

COUNTER = "num_batches_tracked"  # nothing is computed from it


@dataclass(frozen=True)
class WeightsReport:
    """Names of tensors.

    Attributes:
        matched: the model's, equal in every value to the checkpoint's.
        missing: the model's, where the checkpoint's should be, that it has not, or with other values.
        unexpected: the checkpoint's that have no place in the model.
        new: the model's own layers (a feature pyramid, heads), which no checkpoint has.
    """

    matched: list[str]
    missing: list[str]
    unexpected: list[str]
    new: list[str]

    def __str__(self) -> str:
        return (
            f"{len(self.matched)} tensors from the checkpoint, {len(self.missing)} missing, {len(self.unexpected)} unexpected"
            f"{_named(self.missing + self.unexpected)}, {len(self.new)} new"
        )

    def complete(self) -> WeightsReport:
        """Itself, if all of the checkpoint arrived; RuntimeError names what did not."""
        if self.missing or self.unexpected:
            raise RuntimeError(f"weights did not arrive: {self}")
        return self

    def to_dict(self) -> dict:
        """The content of ``weights.json``."""
        return {"format": FORMAT, **asdict(self)}


def _named(names: list[str]) -> str:
    return f" ({', '.join(names[:5])}{', ...' if len(names) > 5 else ''})" if names else ""


def weights_report(state: Mapping[str, Tensor], model: nn.Module, places: Mapping[str, str]) -> WeightsReport:
    """Compare a dense network's ``state`` (its ``state_dict``) with the freshly made ``model`` it went into.

    ``places``: prefixes of the model's names, each with the prefix of the network's own names that belongs there; for example
    ``{"backbone.trunk.network.": ""}``, or ``{"roi_heads.res5.": "layer4."}`` for a part.
    """
    own = {name: tensor for name, tensor in model.state_dict().items() if not name.endswith(COUNTER)}
    wanted = {name for name in state if not name.endswith(COUNTER)}
    matched, missing, new, used = [], [], [], set()
    for name, tensor in own.items():
        origin = next((theirs + name[len(prefix) :] for prefix, theirs in places.items() if name.startswith(prefix)), None)
        if origin is None:
            new.append(name)
        elif origin in wanted and torch.equal(state[origin].cpu(), tensor.cpu()):
            matched.append(name)
            used.add(origin)
        else:
            missing.append(name)
            used.add(origin)
    return WeightsReport(matched, missing, sorted(wanted - used), new)
