"""InfoNCE between a sub-network and its targets, with the negatives of the base loss of that name."""

from torch import Tensor

from pretrain.objective.base_losses.infonce import Infonce as BaseInfonce

DISTANCE = "relative"


class Infonce(BaseInfonce):
    """As the base loss, whatever the base loss is; targets carry no gradient."""

    def forward(self, student: Tensor, target: Tensor) -> Tensor:
        return super().forward(student, target.detach())
