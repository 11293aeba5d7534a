"""A real Slurm for the tests: two nodes, accounting, two fake GPUs each; started once, stopped at the end."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from tests.slurm.throwaway import ThrowAwayCluster, missing


def start(name: str, **options) -> ThrowAwayCluster:
    if need := missing():
        pytest.skip(f"Slurm is not installed: {need}  (make test-slurm does it where it may)")
    cluster = ThrowAwayCluster(Path(tempfile.mkdtemp(prefix=f"us3l-slurm-{name}-")), **options)
    cluster.start()
    return cluster


def use(cluster: ThrowAwayCluster) -> pytest.MonkeyPatch:
    """Let this process submit to ``cluster``."""
    patch = pytest.MonkeyPatch()
    for key, value in cluster.environment.items():
        patch.setenv(key, value)
    patch.setenv("OMP_NUM_THREADS", "1")
    for key in [key for key in os.environ if key.startswith("SBATCH_")]:
        patch.delenv(key)
    return patch


@pytest.fixture(scope="session")
def session_cluster():
    cluster = start("a", nodes=2, gpus=2, accounting=True, down_after=8)
    yield cluster
    cluster.stop(wipe=True)


@pytest.fixture
def cluster(session_cluster):
    patch = use(session_cluster)
    yield session_cluster
    patch.undo()


@pytest.fixture
def bare_cluster():
    """One node, no accounting, and a controller that forgets ended jobs at once."""
    cluster = start("b", nodes=1, accounting=False, remember=2)
    patch = use(cluster)
    yield cluster
    patch.undo()
    cluster.stop(wipe=True)
