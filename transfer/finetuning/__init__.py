"""Fine-tuning a detector or a segmentation network on a checkpoint: what both tasks share, and their one interface.

finetuning = Finetuning(task="detection", checkpoint="runs/mine", width=0.5, dataset="voc", data_dir="VOCdevkit")
(workload,) = check([finetuning])
records = run(finetuning)
"""

from transfer.finetuning.description import TASKS, Finetuning
from transfer.finetuning.running import Workload, check, run

__all__ = ["TASKS", "Finetuning", "Workload", "check", "run"]
