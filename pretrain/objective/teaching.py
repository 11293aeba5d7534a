"""What a teacher is: it says what the outputs of a pass learn from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor, nn

from pretrain.config import Config
from rundir.errors import UserError
from rundir.subnet import Width

if TYPE_CHECKING:
    from pretrain.objective.networks import Student


class Seen(NamedTuple):
    """A network's outputs for some views: of each its projection (B, D), its output (B, D) and its feature maps, where wanted."""

    z: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    maps: tuple[list[Tensor], ...] = ()

    def detached(self) -> Seen:
        """The same without gradient."""
        return Seen(
            *(tuple(t.detach() for t in part) for part in (self.z, self.outputs)),  # type: ignore[call-arg]
            tuple([m.detach() for m in view] for view in self.maps),
        )


class Pass(NamedTuple):
    """One pass of a step, as a teacher is told of it.

    Attributes:
        student: the network that is trained, at the width of the pass.
        views: those that the teacher sees, (B, 3, H, W) each.
        width: of the pass; ``widths``: of the whole step, in the order in which they are trained.
        base: whether the loss of the pass is the base loss: at the widest, and at every width of naive training.
        fresh: whether targets are to be made anew: where ``base`` holds, and at every pass with objective.ema_update=pass.
        at: the width of a teacher that is a network like the student's.
        seen: what the student has made of its views in this pass.
        wider: what it made of them in the pass before; None in the first.
        guide: what the pass before learned from; None in the first.
    """

    student: Student
    views: tuple[Tensor, ...]
    width: Width
    widths: Sequence[Width]
    base: bool
    fresh: bool
    at: Width
    seen: Seen
    wider: Seen | None
    guide: Seen | None


def check_targets(found: object, seen: Seen, teacher: str) -> None:
    """Raise :class:`UserError` unless ``found``, the targets of a user's own teacher, has one like each output of ``seen``."""
    wanted = [tuple(output.shape) for output in seen.outputs]
    if not isinstance(found, Seen):
        raise UserError(
            f"objective.teacher={teacher} returns {type(found).__name__} from targets; let it return a Seen (of "
            "pretrain.objective.teaching)"
        )
    shapes = [tuple(getattr(z, "shape", ())) for z in found.z]
    if shapes != wanted:
        raise UserError(
            f"objective.teacher={teacher} returns z of shapes {shapes} from targets; let it return one target for each "
            f"view, of shapes {wanted}"
        )


class TeacherSetting(NamedTuple):
    """What a teacher is made with: the run's config, and its student on the device of training."""

    cfg: Config
    student: Student


class Guide(nn.Module):
    """A teacher. This one has nothing of its own: the widest network's projections are the targets of every width of a step.

    A subclass is made with a :class:`TeacherSetting` and says what it does differently. ``has_network`` says that it is a network,
    images (B, 3, H, W) to targets (B, D), whose targets diagnostics measure.
    """

    has_network = False

    def update(self, student: Student, momentum: float) -> None:
        """Before the first pass of a step (with objective.ema_update=pass: before each): nothing changes here."""

    def targets(self, now: Pass) -> Seen:
        """What the outputs of a pass learn from. A base loss takes them with their gradient, a distillation loss without."""
        return now.seen if now.base else now.guide

    @classmethod
    def passes(cls, cfg: Config, widths: Sequence[float]) -> list[float]:
        """The widths of a step's forward passes without gradient through a network like the student's, of which ``widths`` are
        trained, for the cost of training.
        """
        return []
