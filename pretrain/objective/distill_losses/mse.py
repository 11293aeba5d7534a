"""The absolute distance of unit vectors."""

from torch import Tensor

from pretrain.objective.losses.absolute import negative_cosine

DISTANCE = "absolute"


def mse(student: Tensor, target: Tensor) -> Tensor:
    """-mean_i cos(s_i, t_i) (METHOD section 2)."""
    return negative_cosine(student, target)
