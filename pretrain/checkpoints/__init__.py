"""Checkpoints: what a file holds, whoever wrote it, and the encoder that becomes of it; the door from pretraining to the tasks.

    network = open_checkpoint("runs/mine").at(0.5)

``opening`` goes from a file to a :class:`Checkpoint`; ``reading`` and ``inert`` read any file safely; ``files`` are this project's,
written atomically; ``foreign`` and ``dense`` find the networks of others; ``weights`` puts weights into networks.
"""

from pretrain.checkpoints.arguments import add_checkpoint_arguments
from pretrain.checkpoints.checkpoint import Batches, Checkpoint
from pretrain.checkpoints.opening import open_checkpoint, open_pretrained
from pretrain.slimmable import Cost

__all__ = ["Batches", "Checkpoint", "Cost", "add_checkpoint_arguments", "open_checkpoint", "open_pretrained"]
