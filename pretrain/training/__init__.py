"""Training: ``build`` assembles the networks and the optimizer of a config and takes steps, ``state`` is what a checkpoint holds of
them, ``loop`` trains a run from wherever its directory is."""

from pretrain.training.build import Training, build_training, make_optimizer
from pretrain.training.loop import Trainer, pretrain

__all__ = ["Trainer", "Training", "build_training", "make_optimizer", "pretrain"]
