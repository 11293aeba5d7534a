"""Search without labels: the best sub-network of a checkpoint for a budget."""

from transfer.search.budget import Budget
from transfer.search.evaluation import search
from transfer.search.options import Options

__all__ = ["Budget", "Options", "search"]
