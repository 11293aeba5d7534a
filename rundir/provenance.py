"""Where numbers come from: the commit, packages and command of a process, and in one line what its machine computes with.

With other threads, instructions, libraries, memory formats or processes, sums are taken in another order and so rounded otherwise,
which training amplifies to points of accuracy. Two runs of one experiment end with equal numbers where all of this is equal. What
torch says of a machine comes from :mod:`pretrain.hardware`.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import platform
import sys

from rundir.commit import git_commit

PACKAGES = ("torch", "torchvision", "numpy", "scipy", "scikit-learn", "pillow", "omegaconf")
OPTIONAL = ("pandas", "matplotlib", "submitit", "timm", "detectron2", "onedl-mmcv", "onedl-mmsegmentation", "onnxruntime")


def code() -> dict:
    """Commit, package versions and command of this process."""
    return {
        "git_commit": git_commit(),
        "packages": {"python": platform.python_version()} | {p: version(p) for p in PACKAGES},
        "command": sys.argv,
    }


def versions(machine: dict) -> str:
    """What a report of a problem should say, one line each: project and commit, Python, packages and machine.

    machine: :func:`pretrain.hardware.hardware`.
    """
    named = {"us3l-bench": f"{version('us3l-bench')} ({git_commit() or 'no git checkout'})", "python": platform.python_version()}
    named |= {package: version(package) or _without_metadata(package) for package in (*PACKAGES, *OPTIONAL)}
    gpus = ", ".join(machine["gpus"]) or "none"
    named |= {
        "system": platform.platform(),
        "processor": f"{machine['cpu']} {machine['capability']}, {machine['cores']} cores",
        "GPU": gpus + (f", CUDA {machine['cuda']}" if machine["cuda"] else ""),
    }
    return "\n".join(f"{name}: {said}" for name, said in named.items())


def _without_metadata(package: str) -> str:
    return "installed, version unknown" if importlib.util.find_spec(package.replace("-", "_")) else "not installed"


@functools.cache
def version(package: str) -> str | None:
    """The version that is installed; None where none is, by that name."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def kind(machine: dict, execution: dict) -> str:
    """What numbers depend on besides commit and packages, in one line: ``AMD EPYC (26/2/1) AVX512, 1 thread, fp32``.

    machine: :func:`pretrain.hardware.hardware`; execution: ``device`` and, where they are known, ``processes``, ``precision``,
    ``memory_format`` and ``compile``.
    """
    if str(execution.get("device", "cpu")).startswith("cuda"):
        parts = [str((machine["gpus"] or ["GPU"])[0]), f"CUDA {machine['cuda']}"]
    else:
        threads = machine["threads"]
        parts = [f"{machine['cpu']} {machine['capability']}", f"{threads} thread{'s' if threads > 1 else ''}"]
        parts += [f"{name}={value}" for name, value in machine["limits"].items() if "THREADS" not in name]
    if execution.get("processes", 1) > 1:
        parts.append(f"{execution['processes']} processes")
    parts += [str(execution[name]) for name in ("precision", "memory_format") if execution.get(name)]
    return ", ".join([*parts, *(["compiled"] if execution.get("compile") else [])])
