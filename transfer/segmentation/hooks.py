"""What the project adds to mmengine's training: the run directory's log, randomness by iteration, and pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner

from transfer.finetuning.pictures import chosen_images, write_panels
from transfer.finetuning.runs import Journal
from transfer.segmentation.data.labels import read_image
from transfer.segmentation.data.layouts import IGNORED
from transfer.segmentation.data.sets import Split

NO_CLASS = (255, 255, 255)  # colour of pixels without a class
LOSSES = {"loss": "loss", "decode.loss_ce": "loss/decode", "aux.loss_ce": "loss/auxiliary", "decode.acc_seg": "pixel_accuracy"}


class SeedHook(Hook):
    """Dropout depends on the seed and the iteration only, so that a resumed training goes on as it would have."""

    def __init__(self, seed: int):
        self.seed = seed

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch=None) -> None:
        """Seed torch with the iteration."""
        drawn = np.random.SeedSequence([self.seed, runner.iter, runner.rank]).generate_state(1, np.uint64)
        torch.manual_seed(int(drawn[0]))


class PlainCheckpointHook(Hook):
    """Leaves mmengine's log out of its checkpoints: the rest is tensors and plain types, safe to load."""

    kept = ("keep_ckpt_ids", "last_ckpt")  # which of its checkpoints are there

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Remove the log from ``checkpoint``."""
        known = checkpoint["message_hub"]["runtime_info"]
        checkpoint["message_hub"] = {
            "log_scalars": {},
            "resumed_keys": {},
            "runtime_info": {name: known[name] for name in self.kept if name in known},
        }


class BeginHook(Hook):
    """Calls ``begin`` in the first process when a training begins, with every weight drawn and loaded; not when it resumes."""

    def __init__(self, begin: Callable[[], None]):
        self.begin = begin

    def before_train(self, runner: Runner) -> None:
        """Call ``begin`` unless the training resumes."""
        if runner.iter == 0 and runner.rank == 0:
            self.begin()


class JournalHook(Hook):
    """Losses, pixel accuracy in training (a share) and learning rate go to the job's journal."""

    def __init__(self, log: Journal):
        self.log = log

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs: dict | None = None) -> None:
        """Log one iteration."""
        values = {name: float(outputs[key].detach()) for key, name in LOSSES.items() if key in outputs}
        if "pixel_accuracy" in values:
            values["pixel_accuracy"] /= 100
        values["lr"] = runner.optim_wrapper.get_lr()["lr"][0]
        self.log.iteration(runner.iter + 1, values)


class StopHook(Hook):
    """Saves and ends the training where it is asked to, after every other hook."""

    priority = "LOWEST"

    def __init__(self, log: Journal):
        self.log = log

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs: dict | None = None) -> None:
        """Stop here if that was requested."""
        done = runner.iter + 1
        self.log.stop_if_asked(done, lambda: runner.save_checkpoint(runner.work_dir, f"iter_{done}.pth", by_epoch=False))


class PictureHook(Hook):
    """Keeps the predictions of a few images, spread evenly over the evaluated ones."""

    def __init__(self, split: Split, wanted: int, exif: str):
        self.split, self.wanted, self.exif = split, wanted, exif
        self.rows: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def before_test_epoch(self, runner: Runner) -> None:
        """Choose the images among those of this process."""
        self.chosen, self.rows = set(chosen_images(len(runner.test_dataloader), self.wanted)), []

    def after_test_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Keep the predictions of the chosen images."""
        if batch_idx in self.chosen:
            sample = outputs[0]
            image = read_image(sample.img_path, sample.seg_map_path, self.exif).permute(1, 2, 0).numpy()
            self.rows.append(
                (image, sample.gt_sem_seg.data.squeeze(0).cpu().numpy(), sample.pred_sem_seg.data.squeeze(0).cpu().numpy())
            )

    def write(self, path: Path, title: str) -> None:
        """Write image, truth and prediction of each, with the colours of the classes in them."""
        if not self.rows:
            return
        shown = sorted({int(label) for _, truth, guess in self.rows for label in np.union1d(truth, guess)} - {IGNORED})
        legend = {self.split.classes[label]: tuple(self.split.palette[label]) for label in shown}
        pictures = [
            (image, coloured(truth, self.split.palette), coloured(guess, self.split.palette)) for image, truth, guess in self.rows
        ]
        write_panels(path, pictures, title, legend=legend)  # type: ignore[arg-type]


def coloured(labels: np.ndarray, palette: list[list[int]]) -> np.ndarray:
    """Labels (H, W) as a picture (H, W, 3) uint8; what has no class is white."""
    table = np.full((256, 3), NO_CLASS, np.uint8)
    table[: len(palette)] = palette
    return table[labels.astype(np.uint8)]
