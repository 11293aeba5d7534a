"""The paper's linear evaluation (METHOD section 6): a linear layer on frozen features of augmented crops."""

from __future__ import annotations

from functools import partial

from rundir.subnet import Width
from transfer.classification.scores import Scores, measured
from transfer.classification.sgd import accuracies, train
from transfer.classification.task import Task


def linear(task: Task, widths: list[Width]) -> Scores:
    """Validation accuracy by width; every width has its own frozen network and its own layer, one pass trains all."""
    recipe = task.recipe("linear")
    classifiers = {width: task.classifier(width, frozen=True, start=recipe.start) for width in widths}
    train(
        classifiers,
        recipe,
        task.labelled,
        task.size,
        task.seed,
        task.device,
        f"linear evaluation on {task.dataset}{task.share}",
        task.workers,
    )
    return accuracies(classifiers, task.test_batches(recipe), partial(measured, task.score))
