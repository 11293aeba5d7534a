"""What one of several processes does; each is started anew and makes detectron2 ready itself."""

from __future__ import annotations


def train(checkpoint: str, scenes: str, home: str) -> None:
    """Train one detector together with the other processes, in ``home``/run."""
    from transfer.detection import prepare

    prepare()
    from pretrain.checkpoints import open_checkpoint
    from pretrain.distributed import processes
    from rundir.directory import RunDirectory
    from tests.transfer.detection.test_training import planned

    with processes("cpu") as group:
        made = planned(open_checkpoint(checkpoint), scenes, iterations=3, processes=group.world_size)
        scores = made.train(made.resolved(0.25), RunDirectory(f"{home}/run"), group)
        assert bool(scores.values) == group.first
