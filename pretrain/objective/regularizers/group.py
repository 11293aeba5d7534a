"""US3L's group regularization."""

from pretrain.objective.regularization import Regularizer


class Group(Regularizer):
    """Channels that only wide networks use are freer (METHOD section 5)."""
