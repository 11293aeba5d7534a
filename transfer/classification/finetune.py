"""Full fine-tuning (METHOD section 6): the dense network of a width and a linear layer, trained end to end."""

from __future__ import annotations

from functools import partial

from rundir.subnet import Width
from transfer.classification.scores import Scores, measured
from transfer.classification.sgd import accuracies, train
from transfer.classification.task import Task


def finetune(task: Task, widths: list[Width]) -> Scores:
    """Validation accuracy by width.

    BatchNorms train on batch statistics, and their running averages start from the calibrated ones. The widths share
    the pass over the images, nothing else.
    """
    recipe = task.recipe("finetune")
    classifiers = {width: task.classifier(width, frozen=False, start=recipe.start) for width in widths}
    train(
        classifiers,
        recipe,
        task.labelled,
        task.size,
        task.seed,
        task.device,
        f"fine-tuning on {task.dataset}{task.share}",
        task.workers,
    )
    return accuracies(classifiers, task.test_batches(recipe), partial(measured, task.score))
