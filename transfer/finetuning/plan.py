"""The plan of a fine-tuning, with its checkpoint and data opened: the base class of both tasks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from pretrain.checkpoints import Checkpoint, dense_cost
from pretrain.distributed import Processes
from rundir.directory import RunDirectory
from rundir.records import of_width
from rundir.subnet import Width
from transfer.finetuning.description import Finetuning
from transfer.finetuning.runs import Resolved, Scores
from transfer.finetuning.schedules import Schedule
from transfer.latency import device_name, latency_ms


@dataclass(frozen=True)
class Plan(ABC):
    """What fine-tunings at all widths have in common; ``finetuning.width`` is not looked at.

    Attributes:
        data: what :meth:`load` has returned; has ``name`` (as in records) and ``notes`` (a line each).
        processes: how many train together.
    """

    finetuning: Finetuning
    checkpoint: Checkpoint
    data: Any
    processes: int = 1

    @staticmethod
    @abstractmethod
    def check_network(finetuning: Finetuning, checkpoint: Checkpoint) -> None:
        """Raise :class:`UserError` if the model cannot be built on the checkpoint's network."""

    @staticmethod
    @abstractmethod
    def load(finetuning: Finetuning, where: Path, show: bool) -> Any:
        """The data in ``where``, every file looked at; ``show``: progress.

        Raises:
            UserError: what is missing or wrong, by name.
        """

    @abstractmethod
    def check(self) -> None:
        """Raise :class:`UserError` for what cannot be trained with this checkpoint on these data."""

    @abstractmethod
    def encoder(self, width: Width) -> nn.Module:
        """The encoder at ``width`` as the model has it, whatever its weights: what FLOPs, parameters and latency are of."""

    @abstractmethod
    def train(self, resolved: Resolved, run: RunDirectory, group: Processes) -> Scores:
        """Fine-tune and score in ``run``, from where an interrupted process left it."""

    @property
    @abstractmethod
    def scored_size(self) -> tuple[int, int]:
        """Height and width of a scored image: what FLOPs and latency are of."""

    @property
    @abstractmethod
    def images(self) -> tuple[int, int]:
        """Images to train on and to score."""

    @property
    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """What scores depend on besides what :class:`Resolved` names, plain types."""

    @property
    @abstractmethod
    def contents(self) -> str:
        """The fingerprint of images and annotations."""

    @property
    def model(self) -> str:
        """The model's name in records."""
        return self.finetuning.model

    @property
    def schedule(self) -> Schedule:
        """The schedule of training."""
        return self.finetuning.asked_schedule

    @property
    def seed(self) -> int:
        """The seed of fine-tuning."""
        return self.checkpoint.seed if self.finetuning.seed is None else self.finetuning.seed

    @property
    def is_vit(self) -> bool:
        """Whether the network is a plain ViT."""
        return self.checkpoint.encoder.is_vit

    @property
    def branch(self) -> dict[str, str]:
        """Of the settings, which network was fine-tuned where that is not the student; runs of the student keep their names."""
        return {} if self.checkpoint.branch == "student" else {"branch": self.checkpoint.branch}

    def resolved(self, width: Width) -> Resolved:
        """The fine-tuning at ``width`` with all that its scores depend on."""
        cost, own = dense_cost(self.encoder(width), self.scored_size), self.finetuning
        return Resolved(
            own.task,
            self.data.name,
            self.model,
            own.schedule,
            own.initial,
            seed=self.seed,
            flops=cost.flops,
            parameters=cost.parameters,
            settings=self.settings,
            data=self.contents,
            **of_width(width),
        )

    def train_and_time(self, resolved: Resolved, run: RunDirectory, group: Processes) -> Scores:
        """:meth:`train`, and then how long the encoder takes for one image on the device that it was scored on."""
        scores = self.train(resolved, run, group)
        if not group.first:
            return scores
        encoder = self.encoder(resolved.network).to(group.device).eval()
        return replace(scores, latency_ms=round(latency_ms(encoder, self.scored_size), 4), latency_on=device_name(group.device))
