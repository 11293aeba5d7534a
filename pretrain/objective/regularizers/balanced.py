"""Gradients by how often a channel is updated."""

import torch
from torch import Tensor, nn

from pretrain.config import Config, RegularizerConfig
from pretrain.objective.regularization import Regularizer
from rundir.errors import UserError

WIDEST_EACH_STEP = ("sandwich", "dynamic", "elastic", "fixed")


class Balanced(Regularizer):
    """L2, and every gradient is divided by the square root of how often its weight is updated in a step.

    The first channels, which all widths share, are updated at every width of a step, the last ones by the widest alone. The number
    is the weight's updates so far over those of the widest network; a weight is updated where its gradient is not 0.
    """

    def __init__(self, cfg: RegularizerConfig, model: nn.Module):
        super().__init__(cfg, model)
        self.names = [name for name, p in model.named_parameters() if p.requires_grad]
        self.counts = [torch.zeros_like(p) for p in self.parameters]
        self.widest = 0

    @torch.no_grad()
    def add_gradient(self, widest: bool = False) -> None:
        self.widest += widest
        for parameter, count in zip(self.parameters, self.counts, strict=True):
            if parameter.grad is not None:
                count += parameter.grad != 0
                parameter.grad /= (count / max(self.widest, 1)).clamp_min(1 / max(self.widest, 1)).sqrt()
        super().add_gradient(widest)

    def state(self) -> dict[str, Tensor]:
        return {"": torch.tensor(self.widest), **dict(zip(self.names, self.counts, strict=True))}

    def restore(self, state: dict[str, Tensor]) -> None:
        self.widest = int(state[""])
        for name, count in zip(self.names, self.counts, strict=True):
            count.copy_(state[name])


def check(cfg: Config) -> None:
    """Raise :class:`UserError` where updates are not those of one width, or the widest is not always among them."""
    if cfg.regularizer.kind != "balanced":
        return
    if cfg.objective.update != "per_width" or cfg.optimizer.accumulate_steps > 1:
        raise UserError(
            "regularizer.kind=balanced counts the updates of each width; set objective.update=per_width and "
            "optimizer.accumulate_steps=1"
        )
    if cfg.widths.sampling not in WIDEST_EACH_STEP and cfg.widths.min < cfg.widths.max:
        raise UserError(
            f"regularizer.kind=balanced counts updates by those of the widest network; set widths.sampling to one of "
            f"{', '.join(WIDEST_EACH_STEP)}"
        )
