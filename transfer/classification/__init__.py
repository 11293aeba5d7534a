"""Image classification: k-NN, linear probes and fine-tuning of a checkpoint at every width."""

from transfer.classification.evaluation import DEFAULT_PROTOCOLS, PROTOCOLS, evaluate
from transfer.classification.options import Options, Recipe

__all__ = ["DEFAULT_PROTOCOLS", "PROTOCOLS", "Options", "Recipe", "evaluate"]
