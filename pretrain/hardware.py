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
# Not these: what is printed, and what scikit-learn sets when it is imported, so that it says only whether that was before or after.
NO_LIMITS = re.compile(r".*(VERBOSE|DISPLAY|WARNINGS|_LOG\w*)|KMP_(DUPLICATE_LIB_OK|INIT_AT_FORK)")


def hardware() -> dict:
    """This machine and what of it this process computes with.

    ``capability``: torch's instruction set; ``limits``: variables that change what libraries use; ``threads``: of one operation.
    """
    limits = {name: value for name, value in sorted(os.environ.items()) if LIMITS.fullmatch(name) and not NO_LIMITS.fullmatch(name)}
    return {
        "machine": platform.machine(),
        "cpu": _processor(),
        "caches": _caches(),
        "cores": os.cpu_count(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "limits": limits,
        "libraries": _libraries(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "cuda": torch.version.cuda if torch.cuda.is_available() else None,
    }


# Instructions for sums of bfloat16 products as /proc/cpuinfo names them, and the settings of oneDNN that leave them unused.
BF16_FLAGS = ("amx_bf16", "avx512_bf16")
WITHOUT_BF16 = ("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI")


def best_precision(device: torch.device) -> tuple[str, str]:
    """What ``train.precision=auto`` is on ``device``, ``bf16`` or ``fp32``, and why, in words.

    A processor without arithmetic for bfloat16 emulates it, which takes longer than float32.
    """
    if device.type == "cuda":
        name, able = torch.cuda.get_device_name(device), torch.version.hip or torch.cuda.get_device_capability(device) >= (8, 0)
        return ("bf16", f"{name} computes it") if able else ("fp32", f"{name} does not compute bfloat16")
    found = [flag for flag in BF16_FLAGS if flag in _cpuinfo().get("flags", "").split()]
    if not found:
        return "fp32", "this processor has no arithmetic for bfloat16 (AVX-512 BF16 or AMX)"
    limit = next(
        (
            f"{name}={os.environ[name]}"
            for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
            if os.environ.get(name, "").upper() in WITHOUT_BF16
        ),
        "",
    )
    if not limit and not torch.backends.cpu.get_cpu_capability().startswith("AVX512"):
        limit = f"ATEN_CPU_CAPABILITY={os.environ.get('ATEN_CPU_CAPABILITY', 'default')}"
    if limit:
        return "fp32", f"{limit} leaves this processor's arithmetic for bfloat16 unused"
    return "bf16", f"this processor computes it ({', '.join(found)})"


def _processor() -> str:
    """Model, and family, model and stepping in numbers, since what virtual machines call theirs says little."""
    known = _cpuinfo()
    if not known:
        return platform.processor() or platform.machine()
    numbers = [known[key] for key in ("cpu family", "model", "stepping") if key in known]
    name = known.get("model name") or known.get("CPU part") or platform.machine()
    return f"{name} ({'/'.join(numbers)})" if numbers else name


def _cpuinfo() -> dict[str, str]:
    """What Linux says of the first processor; empty on another system."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace", encoding="utf-8").split("\n\n")[0].splitlines()
    except OSError:
        return {}
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}


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
