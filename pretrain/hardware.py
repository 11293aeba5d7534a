"""This machine, and everything about it and this process that decides how sums are rounded (see :mod:`rundir.provenance`)."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

import torch

# Variables that limit or choose what torch, oneDNN, MKL, OpenBLAS and CUDA compute with.
LIMITS = re.compile(r"(ATEN_CPU|ONEDNN|DNNL|MKL|OPENBLAS|BLIS|OMP|KMP|CUBLAS|CUDNN|NVIDIA_TF32|TORCH_ALLOW_TF32|TORCH_CUDNN)_\w+")
LIBRARIES = re.compile(r"(Intel\(R\) )?(oneAPI )?(Math Kernel Library|MKL|OpenBLAS|ACL|CuDNN)")
NO_LIMITS = re.compile(r".*(VERBOSE|DISPLAY|WARNINGS|_LOG\w*)")


def hardware() -> dict:
    """This machine and what of it this process computes with.

    ``capability``: torch's instruction set; ``limits``: variables that change what libraries use; ``threads``: of one operation.
    """
    limits = {name: value for name, value in sorted(os.environ.items()) if LIMITS.fullmatch(name) and not NO_LIMITS.fullmatch(name)}
    return {"machine": platform.machine(), "cpu": _processor(), "caches": _caches(), "cores": os.cpu_count(),
            "capability": torch.backends.cpu.get_cpu_capability(), "threads": torch.get_num_threads(), "limits": limits,
            "libraries": _libraries(), "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
            "cuda": torch.version.cuda if torch.cuda.is_available() else None}


def _processor() -> str:
    """Model, and family, model and stepping in numbers, since what virtual machines call theirs says little."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace", encoding="utf-8").split("\n\n")[0].splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    known = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    numbers = [known[key] for key in ("cpu family", "model", "stepping") if key in known]
    name = known.get("model name") or known.get("CPU part") or platform.machine()
    return f"{name} ({'/'.join(numbers)})" if numbers else name


def _caches() -> list[str]:
    """Sizes of the first core's data caches, which decide how matrices are cut: ``["L1 48K", "L2 1024K"]``."""
    found = []
    for place in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            level, kind, size = ((place / name).read_text(encoding="utf-8").strip() for name in ("level", "type", "size"))
        except OSError:
            continue
        if kind != "Instruction":
            found.append(f"L{level} {size}")
    return found


def _libraries() -> list[str]:
    """torch's libraries of linear algebra and convolution, with their versions."""
    lines = [line.strip(" -") for line in torch.__config__.show().splitlines()]
    return [line for line in lines if LIBRARIES.match(line)] + re.findall(r"\bBLAS_INFO=\w+", " ".join(lines))
