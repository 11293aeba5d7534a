"""The absolute distance to what the next wider width makes of the same view."""

from torch import Tensor

from pretrain.objective.losses.absolute import negative_cosine

DISTANCE = "absolute"


def next_wider(student: Tensor, wider: Tensor) -> Tensor:
    """-mean_i cos of the output and the projection of the next wider width of the step, whatever the teacher is."""
    return negative_cosine(student, wider)
