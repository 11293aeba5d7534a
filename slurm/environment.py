"""The environment of Slurm's commands: no variable may hide jobs or override what was asked for.

sbatch takes its options from the command line, then from ``SBATCH_*``, then from the script. All that is decided here goes on the
command line, so a site's or a user's variables only fill in what was left open, and the launcher names those that do.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

# Variables that change what the commands print or which jobs they see, or describe the job this process may run in.
DROPPED = ("SLURM_", "SLURMD_", "SRUN_", "SBATCH_", "SALLOC_", "SQUEUE_", "SACCT_", "SCANCEL_", "SCONTROL_", "SINFO_", "SUBMITIT_")
KEPT = ("SLURM_CONF", "SLURM_JWT", "SLURM_CLI_")  # where the cluster is, and who the user is there
RANKS = ("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
# Options that exclude each other: who decides one of a row has decided the row.
ROWS = (
    ("mem", "mem-per-node", "mem-per-cpu", "mem-per-gpu"),
    ("requeue", "no-requeue"),
    ("time", "timelimit"),
    ("array", "array-inx"),
    ("gpus", "gpus-per-node", "gpus-per-task", "gpus-per-socket", "gres"),
    ("cpus-per-task", "cpus-per-gpu"),
)
# Decided here whatever the settings: no GPUs is a choice too, and a job of another cluster would not be found again.
DECIDED = ("gpus", "array", "wait", "clusters", "output", "error", "debug")


def for_questions() -> dict[str, str]:
    """The environment for squeue, sacct, scancel and scontrol: their defaults, and array expressions in full."""
    return {**_plain(), "SLURM_BITSTR_LEN": "0"}


def for_sbatch(options: Iterable[str]) -> dict[str, str]:
    """The environment for sbatch with these ``options`` on its command line."""
    return {**_plain(), **in_effect(options)}


def in_effect(options: Iterable[str]) -> dict[str, str]:
    """Those of the environment's ``SBATCH_*`` that decide something which ``options`` (``--name=value``) leave open."""
    given = {option.partition("=")[0].lstrip("-") for option in options} | set(DECIDED)
    for row in ROWS:
        if given & set(row):
            given |= set(row)
    return {name: value for name, value in os.environ.items() if name.startswith("SBATCH_") and option_of(name) not in given}


def option_of(variable: str) -> str:
    """The option that an ``SBATCH_*`` variable stands for; most have the same name."""
    return variable.removeprefix("SBATCH_").lower().replace("_", "-")


def _plain() -> dict[str, str]:
    return {
        name: value
        for name, value in os.environ.items()
        if name not in RANKS and (not name.startswith(DROPPED) or name.startswith(KEPT))
    }
