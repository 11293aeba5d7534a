"""What dynamic sampling saves against the sandwich rule, stage by stage: time and FLOPs.

    python benchmarks/dynamic.py [--epochs 8] [--threads N] [--quick]

The digits preset, one run of each rule, epoch by epoch in turn, so that both see the same other load on the machine.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.measure import Row, at_most, faster, markdown, options, seconds
from pretrain import config
from pretrain.config import Config
from pretrain.cost import training_flops
from pretrain.distributed import processes
from pretrain.objective.width_rules.dynamic import STAGES, lower_bound
from pretrain.training import Trainer
from rundir.cli import cli
from rundir.directory import RunDirectory
from rundir.progress import reporting

RULES = ("dynamic", "sandwich")


def settings(rule: str, epochs: int, quick: bool, low: float = 0.25) -> Config:
    small = ["data.limit=64", "optimizer.batch_size=32", "diagnostics.images=0"] if quick else []
    return config.load(
        "digits",
        [
            "objective.base_loss=infonce",
            "objective.teacher=momentum",
            f"widths.sampling={rule}",
            f"widths.min={low}",
            f"optimizer.epochs={epochs}",
            "train.device=cpu",
            *small,
        ],
    )


def epoch(trainer: Trainer, number: int) -> None:
    """All steps of an epoch, views included."""
    trainer.training.regularizer.set_epoch(number, trainer.cfg.optimizer.epochs)
    for _, x1, x2 in trainer.batches.epoch(number):
        trainer.train_step(x1, x2)


def measure(epochs: int, quick: bool) -> tuple[dict[str, list[float]], int]:
    """Seconds of every epoch by rule, and the number of training images."""
    times: dict[str, list[float]] = {rule: [] for rule in RULES}
    with processes("cpu") as group, tempfile.TemporaryDirectory() as place, reporting("dynamic sampling", epochs) as reporter:
        made = {rule: Trainer(settings(rule, epochs, quick), RunDirectory(Path(place) / rule), group) for rule in RULES}
        for rule in RULES:  # to warm up, on a trainer that is made anew afterwards
            epoch(made[rule], 0)
            made[rule] = Trainer(settings(rule, epochs, quick), RunDirectory(Path(place) / rule), group)
        for number in range(epochs):
            for rule in RULES:
                times[rule].append(seconds(lambda r=rule, n=number: epoch(made[r], n)))
            reporter.update(number + 1, f"epoch {number + 1}")
        return times, len(made["dynamic"].source)


def rows(epochs: int = 8, quick: bool = False) -> list[Row]:
    """Epochs a second of dynamic sampling against the sandwich rule by stage, and of the whole run, with FLOPs."""
    epochs = STAGES if quick else max(STAGES, epochs // STAGES * STAGES)
    times, images = measure(epochs, quick)
    part, each = "Dynamic sampling against sandwich, digits, epoch by epoch", epochs // STAGES
    whole = training_flops(settings("sandwich", epochs, quick), images)
    found, spent = [], 0.0
    for stage in range(STAGES):
        low = lower_bound(0.25, 1.0, (stage + 0.5) / STAGES)
        flops = training_flops(settings("sandwich", epochs, quick, low), images)  # as if all epochs were of this stage
        spent += flops / STAGES
        ours, reference = (sum(times[rule][stage * each : (stage + 1) * each]) / each for rule in RULES)
        found.append(
            faster(
                part,
                f"stage {stage + 1}, widths {low:g} to 1",
                "epochs/s",
                1 / ours,
                1 / reference,
                note=f"FLOPs promise {whole / flops:.2f}×",
            )
        )
    ours, reference = (sum(times[rule]) for rule in RULES)
    promise = whole / spent
    # Fewer passes are claimed: one in the first stage instead of three. Narrow passes of later stages are wider than sandwich's.
    found.append(
        faster(
            part,
            "the whole training",
            "epochs/s",
            epochs / ours,
            epochs / reference,
            1.0,
            f"FLOPs promise {promise:.2f}×, the number of passes {3 * STAGES / (3 * STAGES - 2):.2f}×",
        )
    )
    return found if quick else [*found, paper_flops(part)]


def paper_flops(part: str) -> Row:
    """FLOPs of the paper's CIFAR training under both rules: counted, nothing is trained."""
    ours, reference = (
        training_flops(config.load("cifar10", ["objective.teacher=momentum", f"widths.sampling={rule}"]), 50_000) for rule in RULES
    )
    return at_most(
        part, "the paper's CIFAR training of ResNet-18, FLOPs of dynamic against sandwich", "PFLOP", ours / 1e15, reference / 1e15
    )


def main(argv: Sequence[str] | None = None) -> None:
    args = options(__doc__, ("--epochs", {"type": int, "default": 8, "help": "of each rule, a multiple of 4"}), argv=argv)
    print(markdown(rows(args.epochs, args.quick)))


if __name__ == "__main__":
    cli(main)
