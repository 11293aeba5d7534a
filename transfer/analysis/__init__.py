"""What the features of a checkpoint are like at every width, measured without labels."""

from transfer.analysis.evaluation import analyse
from transfer.analysis.options import Options

__all__ = ["Options", "analyse"]
