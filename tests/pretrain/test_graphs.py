"""Passes from recordings are the passes, to the bit: every cell, widths, networks, regularizers, schedules, a resumed run."""

from __future__ import annotations

import itertools

import pytest
import torch

from benchmarks import recorded
from pretrain import config, graphs
from pretrain.distributed import processes
from pretrain.graphs import Graphs
from pretrain.objective.gradients import Gradients
from pretrain.training import Trainer, pretrain
from pretrain.training.loop import tf32
from rundir.directory import RunDirectory
from rundir.errors import UserError
from tests.pretrain import tiny

GRID = ("widths.sampling=sandwich", "widths.grid=4", "optimizer.epochs=2")
CELLS = [
    (f"objective.base_loss={base}", f"objective.distill_loss={distill}", f"objective.teacher={teacher}")
    for base, distill, teacher in itertools.product(["mse", "infonce"], ["mse", "infonce"], ["online", "momentum"])
]
OTHERS = {
    "no regularizer": ("regularizer.kind=none",),
    "l2": ("regularizer.kind=l2",),
    "authors": ("regularizer.variant=authors",),
    "dynamic": ("widths.sampling=dynamic", "widths.grid=5", "optimizer.epochs=4"),
    "authors, dynamic": ("widths.sampling=dynamic", "widths.grid=5", "optimizer.epochs=4", "regularizer.variant=authors"),
    "accumulate": ("objective.update=accumulate", "optimizer.accumulate_steps=2"),
    "naive": ("objective.distill_loss=none", "objective.base_loss=infonce"),
    "features": ("objective.feature_weight=1", "model.arch=resnet_small"),
    "vit": (
        "model.arch=vit_micro",
        "data.size=16",
        "optimizer.name=adamw",
        "optimizer.lr=0.001",
        "optimizer.clip_norm=1",
        "regularizer.decoupled=true",
    ),
    "recomputed vit": ("model.arch=vit_micro", "data.size=16", "train.recompute=true"),
    "queue, shuffled": (
        "objective.base_loss=infonce",
        "objective.queue=64",
        "optimizer.virtual_processes=2",
        "objective.shuffle=true",
    ),
    "doubled, every pass": (
        "objective.base_loss=mse",
        "objective.head=shared",
        "objective.ema_update=pass",
        "widths.per_step=4",
        "widths.doubled_ends=true",
    ),
    "slimclr": (
        "objective.base_loss=infonce",
        "objective.distill_loss=kl",
        "objective.head=none",
        "objective.teacher=online",
        "widths.sampling=fixed",
        "widths.grid=0",
        "objective.width_weights=slimclr",
        "objective.sub_base_weight=0.5",
    ),
    "last batch": ("data.drop_last=false", "data.limit=60"),
    "bf16": ("train.precision=bf16",),
    "chain": ("objective.teacher=chain", "widths.per_step=4"),
    "momentum per width": ("objective.teacher=momentum_per_width",),
    "dino": ("objective.base_loss=dino", "model.prototypes=12"),
    "one width": ("widths.min=1", "widths.grid=0", "objective.distill_loss=none"),
}


@pytest.fixture(autouse=True)
def on_a_cpu(monkeypatch):
    monkeypatch.setitem(graphs.RECORDERS, "cpu", recorded.recorder)


def trained(directory, *more):
    """Weights, optimizer and losses after all steps, and the trainer."""
    cfg = config.load("digits", tiny.overrides(*GRID, "diagnostics.images=0", *more))
    with processes("cpu") as group:
        trainer = Trainer(cfg, RunDirectory(directory), group)
        losses = []
        for epoch in range(cfg.optimizer.epochs):
            trainer.training.regularizer.set_epoch(epoch, cfg.optimizer.epochs)
            for _, x1, x2 in trainer.batches.epoch(epoch):
                trainer.train_step(x1, x2)
                losses.append({name: float(total) for name, (total, _) in trainer.meter.items()})
    training = trainer.training
    state = {
        "student": training.student.state_dict(),
        "optimizer": training.optimizer.state_dict()["state"],
        "losses": losses,
        "teacher": training.teacher.state_dict() if training.teacher else {},
    }
    return tiny.flattened(state), trainer


def assert_same(first, second):
    assert first.keys() == second.keys()
    different = [k for k in first if not (torch.equal(first[k], second[k]) if torch.is_tensor(first[k]) else first[k] == second[k])]
    assert different == []


@pytest.mark.parametrize(
    "more", [*CELLS, *OTHERS.values()], ids=[*("-".join(word.split("=")[1] for word in cell) for cell in CELLS), *OTHERS]
)
def test_recorded_passes_train_the_same(tmp_path, more):
    plain, _ = trained(tmp_path / "plain", *more)
    repeated, trainer = trained(tmp_path / "graphs", "train.graphs=true", *more)
    assert_same(repeated, plain)
    made = trainer.training.objective.run.made
    assert 0 < len(made) <= 12 and len(made) < trainer.step_count * trainer.cfg.widths.per_step


def test_recordings_are_few_and_used_again(tmp_path, monkeypatch):
    calls = []
    record = recorded.record
    monkeypatch.setattr(recorded, "record", lambda work: calls.append(work) or record(work))
    _, trainer = trained(tmp_path / "run", "train.graphs=true", "optimizer.epochs=3")
    assert len(trainer.training.objective.run.made) <= 4  # of the narrowest again, which is behind different ones
    assert len(calls) <= 5 < trainer.step_count


def test_a_pass_that_looks_at_a_number_cannot_be_recorded():
    weight = torch.nn.Parameter(torch.ones(3))
    run = Graphs(Gradients([weight]), recorded.recorder())
    with pytest.raises(RuntimeError, match="_local_scalar_dense"):
        run("looks", lambda x: x * x.sum().item(), (torch.ones(3),))


def test_a_recording_reads_what_it_is_given_now_and_adds_to_the_gradients():
    weight = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    gradients = Gradients([weight])
    run = Graphs(gradients, recorded.recorder())

    def work(x, more):
        loss = (weight * x).sum() + more[0].sum()
        loss.backward()
        return loss.detach()

    seen = [float(run("a", work, (torch.tensor([x, 0.0]), [torch.tensor([10.0 * x])]))) for x in (1.0, 2.0, 3.0)]
    assert seen == [11.0, 22.0, 33.0] and weight.grad.tolist() == [6.0, 0.0]
    gradients.clear()
    assert weight.grad.tolist() == [0.0, 0.0] and gradients.flat.abs().sum() == 0


def test_what_comes_from_several_recordings_in_turn_is_copied():
    run = Graphs(Gradients([torch.nn.Parameter(torch.ones(1))]), recorded.recorder())
    seen = []
    for turn in (1.0, 2.0, 3.0, 4.0):
        x = torch.tensor([turn])
        middle = run("even" if turn % 2 == 0 else "odd", lambda x, turn=turn: x + 10 * (turn % 2), (x,))
        seen.append(float(run("end", lambda x, wider: x * wider, (x, middle))))
    assert seen == [1 * 11.0, 2 * 2.0, 3 * 13.0, 4 * 4.0] and len(run.made) == 3


def test_what_a_recording_hands_on_stays_its_owners():
    """The numbers of ``first`` change in each turn, also where a recording that only hands them on is made anew."""
    run = Graphs(Gradients([torch.nn.Parameter(torch.ones(1))]), recorded.recorder())
    seen = []
    for turn in (1.0, 2.0, 3.0, 4.0, 5.0):
        first = run("first", lambda x: 100 * x, (torch.tensor([turn]),))
        middle = run("even" if turn % 2 == 0 else "odd", lambda x: x + 1, (first,))
        middle, first = run("hands on", lambda x, y: (x * 2, y), (middle, first))
        seen.append(float(run("last", lambda x, y: x + y, (middle, first))))
    assert seen == [2 * (100 * turn + 1) + 100 * turn for turn in (1, 2, 3, 4, 5)]


def test_passes_that_are_never_the_same_are_refused(monkeypatch):
    monkeypatch.setattr(graphs, "MOST", 3)
    run = Graphs(Gradients([torch.nn.Parameter(torch.ones(1))]), recorded.recorder())
    with pytest.raises(RuntimeError, match="3 different passes"):
        for key in range(4):
            run(key, lambda x: x + 1, (torch.ones(1),))


@pytest.mark.parametrize("variant", ["paper", "authors"])
def test_an_interrupted_run_goes_on_to_the_same_numbers(tmp_path, monkeypatch, variant):
    more = (
        *GRID,
        "train.graphs=true",
        f"regularizer.variant={variant}",
        "objective.update=accumulate",
        "optimizer.accumulate_steps=3",
    )
    plain = tuple(word for word in more if word != "train.graphs=true")
    pretrain(tiny.tiny(*plain), tmp_path / "whole")
    step = Trainer.train_step

    def killed(trainer, x1, x2):
        if trainer.step_count == 5:
            trainer._save()
            raise KeyboardInterrupt
        step(trainer, x1, x2)

    monkeypatch.setattr(Trainer, "train_step", killed)
    with pytest.raises(KeyboardInterrupt):
        pretrain(tiny.tiny(*more), tmp_path / "run")
    monkeypatch.setattr(Trainer, "train_step", step)
    pretrain(tiny.tiny(*more), tmp_path / "run")
    tiny.assert_same_run(tmp_path / "whole", tmp_path / "run")


@pytest.mark.parametrize(("asked", "there"), [("torch", (False, True)), ("all", (True, True)), ("none", (False, False))])
def test_tf32_is_as_asked_within_and_as_before_after(asked, there):
    places = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = tuple(place.allow_tf32 for place in places)
    with tf32(asked):
        assert tuple(place.allow_tf32 for place in places) == (before if asked == "torch" else there)
    assert tuple(place.allow_tf32 for place in places) == before


def own_loss(student, target):
    return (student - target).square().mean()


def test_where_nothing_can_be_recorded(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"set widths.grid=16"):
        config.load("digits", tiny.overrides("widths.sampling=sandwich", "train.graphs=true"))
    for more, said in (
        (("objective.teacher=ensemble",), "objective.teacher=ensemble"),
        ((f"objective.base_loss={__file__}:own_loss",), "objective.base_loss of your own"),
    ):
        with pytest.raises(UserError, match=f"{said}.*set train.graphs=false"):
            config.load("digits", tiny.overrides(*GRID, "train.graphs=true", *more))
    monkeypatch.delitem(graphs.RECORDERS, "cpu")
    with pytest.raises(UserError, match=r"train.graphs=true needs a GPU"):
        trained(tmp_path / "run", "train.graphs=true")


# -- on a GPU -------------------------------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_cuda_graphs_train_like_plain_passes(tmp_path, precision):
    more = (
        "train.device=cuda",
        f"train.precision={precision}",
        "objective.base_loss=infonce",
        "diagnostics.images=16",
        *tiny.COMPARABLE,
    )
    losses = []
    for directory, own in (("plain", ()), ("graphs", ("train.graphs=true",))):
        pretrain(tiny.tiny(*GRID, *more, *own), tmp_path / directory)
        losses.append([row["value"] for row in tiny.metrics(tmp_path / directory) if row["name"].startswith("loss")])
    assert losses[0] == pytest.approx(losses[1], abs=2e-3 if precision == "fp32" else 0.05)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("more", [(), ("train.graphs=true",)], ids=["plain", "graphs"])
def test_steps_and_views_never_wait_for_a_gpu(tmp_path, more):
    cfg = config.load("digits", tiny.overrides(*GRID, "train.device=cuda", "diagnostics.images=0", *more))
    with processes("cuda") as group:
        trainer = Trainer(cfg, RunDirectory(tmp_path / "run"), group)
        for _ in range(3):  # recordings and libraries' choices may wait
            for _, x1, x2 in trainer.batches.epoch(0):
                trainer.train_step(x1, x2)
        torch.cuda.set_sync_debug_mode("error")
        try:
            for _, x1, x2 in trainer.batches.epoch(1):
                trainer.train_step(x1, x2)
        finally:
            torch.cuda.set_sync_debug_mode("default")
