"""Several runs on one GPU at once (``--per-gpu``): whether its memory is enough for them, which is asked before they start.

Small networks leave most of a GPU idle: what limits them is the time in which one process can launch kernels.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.multiprocessing.reductions import StorageWeakRef

from ablations.grid import Run
from pretrain.config import Config
from pretrain.objective.networks import Student
from pretrain.slimmable import at_width
from rundir.errors import UserError

GIB = 2**30
CONTEXT = GIB  # of a process on a GPU: CUDA, cuDNN and cuBLAS with their workspaces
READ_AS_NEEDED = ("folder", "webdataset")  # data sets of which the GPU holds no more than batches
SPARE = 1.25  # the allocator keeps blocks of several sizes
FREE = "import json, torch; print(json.dumps([torch.cuda.mem_get_info(i)[0] for i in range(torch.cuda.device_count())]))"


def check_memory(runs: Sequence[Run], images: int, per_gpu: int) -> str:
    """A line that says how ``per_gpu`` of ``runs``, which train on ``images`` images, share each GPU that this process sees.

    Raises:
        UserError: a GPU has no room for so many.
    """
    needed = max((training_bytes(run.cfg, images) for run in runs), default=CONTEXT)
    free = free_bytes()
    for index, there in enumerate(free):
        room = there // needed
        if room < per_gpu:
            instead = f"set --per-gpu {room}" if room else "set a smaller optimizer.batch_size, or leave --per-gpu out"
            raise UserError(
                f"--per-gpu {per_gpu}: a run takes about {needed / GIB:.1f} GiB, and GPU {index} has "
                f"{there / GIB:.1f} GiB free; {instead}"
            )
    how = (
        "MPS runs, so their kernels run side by side"
        if mps_runs()
        else "they take turns, since MPS does not run (nvidia-cuda-mps-control -d starts it)"
    )
    return f"{per_gpu} runs share each GPU, about {needed / GIB:.1f} GiB each of {min(free) / GIB:.1f} GiB free; {how}"


def free_bytes() -> list[int]:
    """Free memory of each GPU that this process sees, asked in another process: to ask is to take some of it."""
    said = subprocess.run([sys.executable, "-c", FREE], capture_output=True, encoding="utf-8", check=False)
    if said.returncode:
        raise RuntimeError(f"the free memory of the GPUs is unknown: {(said.stderr.strip() or 'no reason given').splitlines()[-1]}")
    return json.loads(said.stdout)


def mps_runs() -> bool:
    """Whether CUDA's Multi-Process Service, through which processes use a GPU at the same time, waits for clients here."""
    return (Path(os.environ.get("CUDA_MPS_PIPE_DIRECTORY", "/tmp/nvidia-mps")) / "control").exists()


def training_bytes(cfg: Config, images: int) -> int:
    """About what training of ``cfg`` takes of a GPU, in bytes: weights with gradients, optimizer and teacher, the activations of a
    pass at the widest width, which no other exceeds, the images, and what any process takes.
    """
    kept: dict[StorageWeakRef, int] = {}  # of the tensors that the backward pass needs; several may be views of one storage

    def keep(tensor: Tensor) -> Tensor:
        kept[StorageWeakRef(tensor.untyped_storage())] = tensor.untyped_storage().nbytes()
        return tensor

    with FakeTensorMode():  # shapes and types alone
        student = Student(cfg)
        views = [torch.empty(cfg.optimizer.batch_size, 3, cfg.data.size, cfg.data.size) for _ in range(2)]
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), at_width(student, cfg.widths.max):
            student(views, False)
    weights = sum(p.numel() * p.element_size() for p in student.parameters())
    copies = 2 + (2 if cfg.optimizer.name == "adamw" else 1) + (cfg.objective.teacher != "online")
    side = cfg.data.store_size or (0 if cfg.data.name in READ_AS_NEEDED else cfg.data.size)
    pixels = images * 3 * side**2
    return int(SPARE * (weights * copies + sum(kept.values())) + pixels + CONTEXT)
