"""Checkpoints: what a file holds, whoever wrote it, and the encoder built from it; the only way from pretraining to the tasks.

    network = open_checkpoint("runs/mine").at(0.5)

``opening`` goes from a file to a :class:`Checkpoint`; ``reading`` and ``inert`` read any file safely; ``files`` are this project's,
written atomically; ``foreign`` and ``dense`` find the networks of others; ``weights`` puts weights into networks.
"""

from pretrain.checkpoints.arguments import add_checkpoint_arguments
from pretrain.checkpoints.checkpoint import Batches, Checkpoint
from pretrain.checkpoints.opening import open_checkpoint, open_pretrained, untrained
from pretrain.config import Config
from pretrain.slimmable import Cost, dense_cost

__all__ = [
    "Batches",
    "Checkpoint",
    "Config",
    "Cost",
    "add_checkpoint_arguments",
    "dense_cost",
    "open_checkpoint",
    "open_pretrained",
    "untrained",
]
