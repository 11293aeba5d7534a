"""One coefficient for all."""

from pretrain.objective.regularization import Regularizer


class L2(Regularizer):
    """lambda for every parameter: weight decay."""
