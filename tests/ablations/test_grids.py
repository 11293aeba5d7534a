"""The grids that come with the project: they expand, nothing is twice in them, and a cell is what its name says."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest

from ablations import grid, gridfile
from ablations.jobs import here
from ablations.transfers import reference_runs
from pretrain import config
from pretrain.config.methods import BASE_LOSS, DISTILL_LOSS, REGULARIZER, TEACHER
from pretrain.cost import training_flops
from rundir.errors import UserError

WIDTHS = [1.0, 0.75, 0.5, 0.25]
# What differs between two cells of a grid, besides the settings that a profile gives by base loss.
VARIED = {
    "guidelines": {"objective.base_loss", "objective.distill_loss", "objective.teacher", "widths.min", "widths.max"},
    "head": {"objective.base_loss", "objective.distill_loss", "objective.teacher", "objective.head"},
    "sampling": {"widths.sampling", "widths.per_step"},
    "regularization": {"regularizer.kind", "regularizer.groups", "regularizer.alpha", "regularizer.warmup_epochs"},
    "momentum": {
        "objective.base_loss",
        "objective.distill_loss",
        "objective.teacher",
        "objective.ema_momentum",
        "objective.ema_schedule",
    },
    "update": {"objective.base_loss", "objective.distill_loss", "objective.teacher", "objective.update"},
    "comparison": {
        "objective.base_loss",
        "objective.distill_loss",
        "objective.teacher",
        "objective.head",
        "widths.sampling",
        "widths.min",
        "widths.max",
        "widths.slow_start_epochs",
        "regularizer.kind",
        "model.switchable_bn",
        "objective.width_weights",
        "objective.seed_teacher",
    },
    "guidelines-shared": {"objective.base_loss", "objective.distill_loss", "objective.teacher", "objective.head"},
    "paper": {
        "objective.base_loss",
        "objective.distill_loss",
        "objective.teacher",
        "objective.head",
        "widths.min",
        "widths.max",
        "widths.sampling",
        "objective.seed_teacher",
        "model.arch",
        "model.projector_last_norm",
    },
    "controls": {
        "objective.distill_loss",
        "widths.min",
        "widths.max",
        "derived.network",
        "derived.source",
        "derived.importance",
        "derived.calibrate",
        "optimizer.epochs",
        "objective.update",
    },
    "objectives": {
        "objective.base_loss",
        "objective.distill_loss",
        "objective.teacher",
        "widths.min",
        "widths.max",
        "model.prototypes",
        "model.projector_last_norm",
    },
    "teachers": {"objective.base_loss", "objective.distill_loss", "objective.teacher", "objective.seed_teacher", "widths.min"},
    "dimensions": {"elastic.vary", "evaluation.dimension"},
    "distillation": {"objective.base_loss", "objective.distill_loss"},
    "search": {"objective.distill_loss"},
    "regularizers": {"objective.base_loss", "objective.distill_loss", "objective.teacher", "regularizer.kind", "widths.sampling"},
}
BY_BASE_LOSS = {"digits": set(), "cifar100": {"model.projector_out", "optimizer.lr", "regularizer.coefficient"}}
METHODS = {
    "simsiam": ("mse", "online"),
    "byol": ("mse", "momentum"),
    "simclr": ("infonce", "online"),
    "momentum-simclr": ("infonce", "momentum"),
}


@pytest.fixture(scope="module")
def expanded():
    return {(name, profile): expand(name, profile) for name in gridfile.grids() for profile in ("digits", "cifar100")}


def expand(name, profile="digits", only=(), seeds=(100,), overrides=(), runs="runs"):
    return grid.expand(name, profile, only, seeds, None, overrides, Path(runs))


def flat(cfg) -> dict[str, object]:
    content = config.to_dict(cfg)
    return {
        f"{section}.{key}": value
        for section, values in content.items()
        if isinstance(values, dict)
        for key, value in values.items()
    }


def guidance(cfg) -> tuple[str, str, str]:
    return cfg.objective.base_loss, cfg.objective.distill_loss, cfg.objective.teacher


def test_every_grid_of_the_project_is_looked_at_here():
    assert set(VARIED) == set(gridfile.grids())


@pytest.mark.parametrize("profile", ["digits", "cifar100"])
@pytest.mark.parametrize("name", sorted(VARIED))
def test_no_cell_and_no_experiment_is_twice_in_a_grid(expanded, name, profile):
    runs = expanded[name, profile]
    assert len({run.cell for run in runs}) == len({config.config_hash(run.cfg) for run in runs}) == len(runs) > 1
    assert all(re.fullmatch(r"[a-z0-9.]+([-_][a-z0-9.]+)*", run.cell) for run in runs)
    assert {run.cfg.experiment.grid for run in runs} == {name} and all(run.cfg.experiment.cell == run.cell for run in runs)
    assert len({run.cfg.experiment.setting for run in runs}) == 1


@pytest.mark.parametrize("profile", ["digits", "cifar100"])
@pytest.mark.parametrize("name", sorted(VARIED))
def test_what_varies_is_what_the_grid_is_about(expanded, name, profile):
    content = [
        {key: value for key, value in flat(run.cfg).items() if not key.startswith("experiment.")} for run in expanded[name, profile]
    ]
    varied = {key for key in content[0] if len({repr(cell[key]) for cell in content}) > 1}
    losses = {run.cfg.objective.base_loss for run in expanded[name, profile]}
    recipes = {run.cfg.experiment.recipe for run in expanded[name, profile]}
    expected = VARIED[name] | (BY_BASE_LOSS[profile] if len(losses) > 1 else set())
    if (name, profile) == ("objectives", "digits"):
        expected |= {"objective.base_options"}  # SwAV's epsilon
    assert varied == expected if len(recipes) == 1 else varied >= expected  # what recipes differ in is theirs (test_recipes)


def test_head_cells(expanded):
    for run in expanded["head", "digits"]:
        base, distill, teacher, head = run.cell.split("-")
        assert (*guidance(run.cfg), run.cfg.objective.head) == (base, distill, teacher, head)
    # 4 with the MSE base, each with 3 heads; two with InfoNCE, which has no predictor to share
    assert len(expanded["head", "digits"]) == 4 * 3 + 2 * 2


def test_sampling_cells(expanded):
    named = {run.cell: run.cfg.widths for run in expanded["sampling", "digits"]}
    for rule in ("uniform", "sandwich", "dynamic"):
        for n in (2, 3, 4):
            widths = named.pop(f"{rule}-n{n}")
            assert (widths.sampling, widths.per_step) == (rule, n)
    assert set(named) == {"fixed-list"} and (named["fixed-list"].sampling, named["fixed-list"].fixed) == ("fixed", WIDTHS)
    assert {guidance(run.cfg) for run in expanded["sampling", "digits"]} == {("infonce", "infonce", "momentum")}


def test_the_fixed_list_is_that_of_the_widths_asked_for():
    runs = grid.expand("sampling", "digits", ["fixed-list"], [100], [0.5, 0.75], [], Path("runs"))
    assert runs[0].cfg.widths.fixed == [0.75, 0.5]


@pytest.mark.parametrize(("profile", "epochs"), [("digits", 16), ("cifar100", 400)])
def test_regularization_cells(expanded, profile, epochs):
    named = {run.cell: run.cfg.regularizer for run in expanded["regularization", profile]}
    assert (named.pop("none").kind, named.pop("l2").kind) == ("none", "l2")
    assert {reg.coefficient for reg in named.values()} == {expanded["regularization", profile][0].cfg.regularizer.coefficient}
    warm = {"": 0, "-warmup-quarter": epochs // 4, "-warmup-half": epochs // 2}
    seen = set()
    for cell, reg in named.items():
        groups, alpha, warmup = re.fullmatch(r"group(\d+)-alpha([\d.]+)(-warmup-\w+|)", cell).groups()
        assert (reg.kind, reg.groups, reg.alpha, reg.warmup_epochs) == ("group", int(groups), float(alpha), warm[warmup])
        seen.add((int(groups), float(alpha), warmup))
    possible = {(g, a, "") for g in (4, 8, 16) for a in (0.02, 0.05, 0.1) if a * (g - 1) < 1}
    assert seen == possible | {(8, 0.05, "-warmup-quarter"), (8, 0.05, "-warmup-half")}


def test_momentum_cells(expanded):
    found = set()
    for run in expanded["momentum", "digits"]:
        base, distill, what, *cosine = run.cell.split("-")
        own = run.cfg.objective
        assert (own.base_loss, own.distill_loss, own.teacher) == (base, distill, "online" if what == "online" else "momentum")
        if what != "online":
            assert own.ema_momentum == float(what[1:]) and own.ema_schedule == ("cosine" if cosine else "constant")
            found.add((base, own.ema_momentum, own.ema_schedule))
    assert found == {(base, m, "constant") for base in ("mse", "infonce") for m in (0.5, 0.7, 0.9, 0.95, 0.99)} | {
        (base, m, "cosine") for base in ("mse", "infonce") for m in (0.5, 0.9, 0.99)
    }


def test_cells_of_the_grids_of_parts_are_what_they_are_called(expanded):
    named = {
        name: {run.cell: run.cfg for run in expanded[name, "digits"]}
        for name in ("objectives", "teachers", "distillation", "regularizers")
    }
    for cell, cfg in named["objectives"].items():
        training, base = cell.removesuffix("-w1.0").removesuffix("-w0.25").split("-")
        own = "momentum" if base == "dino" else "online"
        assert guidance(cfg) == (
            base,
            *{"naive": ("none", own), "individual": ("none", own), "base": ("mse", own), "guided": ("infonce", "momentum")}[
                training
            ],
        )
        widths = re.search(r"-w([\d.]+)$", cell)
        assert (cfg.widths.min, cfg.widths.max) == ((float(widths[1]),) * 2 if widths else (0.25, 1.0))
    assert {cell.split("-")[1] for cell in named["objectives"]} == {*BASE_LOSS.names} - {"seed", "mae"}
    on_vit = {run.cell: run.cfg for run in expand("objectives", "digits_vit")}
    assert {*on_vit} - {*named["objectives"]} == {"naive-mae", "individual-mae-w1.0", "individual-mae-w0.25"}
    assert all(guidance(on_vit[cell]) == ("mae", "none", "online") for cell in on_vit if "mae" in cell)
    for cell, cfg in named["teachers"].items():
        if cell != "teacher-w1.0":
            loss, teacher = cell.split("-")
            assert guidance(cfg) == (loss, loss, teacher) and bool(cfg.objective.seed_teacher) == (teacher == "frozen")
    assert {cell.partition("-")[2] for cell in named["teachers"]} == {*TEACHER.names, "w1.0"}
    for cell, cfg in named["distillation"].items():
        assert guidance(cfg) == (*cell.split("-"), "online")
    assert {cell.split("-")[1] for cell in named["distillation"]} == {*DISTILL_LOSS.names}
    for cell, cfg in named["regularizers"].items():
        loss, kind = cell.split("-", 1)
        assert cfg.objective.teacher == {"infonce": "momentum", "mse": "online"}[loss]
        assert (cfg.regularizer.kind, cfg.widths.sampling) == (
            ("l2", "ordered_dropout") if kind == "ordered-dropout" else (kind, "sandwich")
        )
    assert {cfg.regularizer.kind for cfg in named["regularizers"].values()} == {*REGULARIZER.names}


def test_update_cells(expanded):
    for run in expanded["update", "digits"]:
        base, distill, teacher, update = run.cell.split("-")
        assert (*guidance(run.cfg), run.cfg.objective.update) == (base, distill, teacher, update)
    assert len(expanded["update", "digits"]) == 3 * 2


def test_us3l_cells_differ_from_the_recipe_in_the_part_that_they_are_without(expanded):
    runs = {run.cell: flat(run.cfg) for run in expanded["comparison", "digits"]}
    full = runs["us3l"]
    assert (
        full["objective.base_loss"],
        full["objective.distill_loss"],
        full["objective.teacher"],
        full["objective.head"],
        full["widths.sampling"],
        full["regularizer.kind"],
    ) == ("infonce", "mse", "momentum", "own", "dynamic", "group")
    changed = {
        cell: {key: value for key, value in content.items() if value != full[key] and not key.startswith("experiment.")}
        for cell, content in runs.items()
        if cell.startswith("us3l-without")
    }
    assert changed == {
        "us3l-without-infonce-base": {"objective.base_loss": "mse"},
        "us3l-without-momentum": {"objective.teacher": "online"},
        "us3l-without-head": {"objective.head": "none"},
        "us3l-without-dynamic": {"widths.sampling": "sandwich"},
        "us3l-without-group": {"regularizer.kind": "l2"},
    }


@pytest.mark.parametrize("name", ["paper", "comparison", "controls", "guidelines"])
def test_a_cell_with_the_name_of_a_recipe_is_that_recipe(expanded, name):
    known = config.recipes()
    for run in expanded[name, "digits"]:
        own = re.sub(r"-w[\d.]+$", "", run.cell)
        if own in known:
            assert run.cfg.experiment.recipe == own, run.cell


def test_the_paper_grid_has_every_recipe_but_what_other_grids_add(expanded):
    assert set(config.recipes()) - {run.cfg.experiment.recipe for run in expanded["paper", "digits"]} == {"elastic-student"}


def test_the_shared_head_is_that_of_the_cells_with_a_predictor(expanded):
    own = {run.cell: flat(run.cfg) for run in expanded["guidelines", "digits"]}
    shared = {run.cell: flat(run.cfg) for run in expanded["guidelines-shared", "digits"]}
    assert len(shared) == 8
    for cell, content in shared.items():
        changed = {key: value for key, value in content.items() if value != own[cell][key] and not key.startswith("experiment.")}
        assert changed == ({"objective.head": "shared"} if cell.startswith("mse-") else {})


def test_controls_are_made_from_the_network_trained_alone_at_full_width(expanded):
    runs = {run.cell: run for run in expanded["controls", "digits"]}
    full = runs["individual-w1.0"]
    made = {cell: run for cell, run in runs.items() if run.cfg.derived.network in ("sliced", "pruned")}
    assert set(made) == {"sliced", "sliced-uncalibrated", "pruned-weights", "pruned-variance", "pruned-svd"}
    for run in made.values():
        assert run.needs == Path(run.cfg.derived.source) == full.directory and run.cfg.model == full.cfg.model
        assert run.widths == WIDTHS and training_flops(run.cfg, 1297) == 0
    assert runs["untrained"].cfg.derived.network == "untrained" and runs["untrained"].needs is None
    assert runs["untrained"].cfg.model == full.cfg.model and runs["us3l"].cfg.model == full.cfg.model
    slimmable, alone = (training_flops(runs[cell].cfg, 1297) for cell in ("us3l", "individual-w1.0-same-flops"))
    assert alone == pytest.approx(slimmable, rel=0.04) and runs["individual-w1.0-same-flops"].cfg.optimizer.epochs > 16


def test_equal_flops_are_the_same_for_every_seed_and_follow_the_users_epochs():
    def epochs(seed, *overrides):
        runs = expand("controls", only=["individual-w1.0-same-flops"], seeds=(seed,), overrides=overrides)
        return {run.cell: run.cfg.optimizer.epochs for run in runs}["individual-w1.0-same-flops"]

    assert epochs(100) == epochs(101) and epochs(100, "optimizer.epochs=32") == pytest.approx(2 * epochs(100), abs=1)


def test_baselines_of_the_comparison(expanded):
    runs = {run.cell: run for run in expanded["comparison", "digits"]}
    for method, (base, teacher) in METHODS.items():
        assert guidance(runs[f"naive-{method}"].cfg) == (base, "none", teacher)
        for width in WIDTHS:
            own = runs[f"individual-{method}-w{width}"].cfg
            assert guidance(own) == (base, "none", teacher) and (own.widths.min, own.widths.max) == (width, width)


def test_slimmable_baselines_train_the_asked_widths():
    for cell, switchable in (("slimmable", False), ("slimmable-switchable", True)):
        own = grid.expand("comparison", "digits", [cell], [100], [0.5, 0.75], [], Path("runs"))[0]
        assert (guidance(own.cfg), own.cfg.model.switchable_bn) == (("infonce", "none", "momentum"), switchable)
        assert (own.cfg.widths.sampling, own.cfg.widths.fixed, own.widths) == ("fixed", [0.75, 0.5], [0.75, 0.5])
        assert (own.cfg.widths.min, own.cfg.widths.max) == (0.5, 0.75)


@pytest.mark.parametrize(("profile", "epochs", "queue"), [("digits", 16, (512, 1024)), ("cifar100", 400, (2048, 32768))])
def test_baselines_with_settings_of_their_own(expanded, profile, epochs, queue):
    runs = {run.cell: run for run in expanded["comparison", profile]}
    for width in WIDTHS:
        moco, seed = runs[f"individual-mocov2-w{width}"].cfg, runs[f"seed-w{width}"]
        assert (guidance(moco), moco.objective.queue) == (("infonce", "none", "momentum"), queue[0])
        assert moco.experiment.recipe == "individual-mocov2"
        assert (guidance(seed.cfg), seed.cfg.objective.queue) == (("seed", "none", "online"), queue[1])
        assert seed.needs == Path(seed.cfg.objective.seed_teacher) == runs["seed-teacher"].directory
        assert seed.cfg.model.projector_out == runs["seed-teacher"].cfg.model.projector_out
        assert seed.cfg.model.arch != runs["seed-teacher"].cfg.model.arch
    slimclr = runs["slimclr"].cfg
    assert (guidance(slimclr), slimclr.objective.queue) == (("infonce", "kl", "momentum"), queue[0])
    assert (slimclr.widths.sampling, slimclr.widths.slow_start_epochs) == ("fixed", epochs // 2)


def test_the_teachers_place_does_not_change_a_runs_name_but_the_teacher_does():
    def student(**changes):
        return next(run.directory.name for run in expand("comparison", only=["seed-w0.5"], **changes) if run.cell == "seed-w0.5")

    assert student() == student(runs="elsewhere") != student(seeds=(101,)).replace("s101", "s100")
    assert student() != student(overrides=["optimizer.lr=0.1"])


def test_what_all_cells_share_can_be_changed_and_what_varies_cannot():
    assert {run.cfg.objective.base_loss for run in expand("sampling", overrides=["objective.base_loss=mse"])} == {"mse"}
    for text in ("widths.sampling=uniform", "widths.per_step=5", "widths.fixed=[1.0]"):
        with pytest.raises(UserError, match="what the grid sampling varies"):
            expand("sampling", overrides=[text])


@pytest.fixture
def chained(tmp_path, monkeypatch):
    """A grid of a cell that learns from another one's checkpoint, which stands behind it in the file."""
    (tmp_path / "chained.yaml").write_text("""
title: Chained
cells:
  - name: "student-w{width}"
    needs: teacher-{kind}
    factors: {width: $widths, kind: [online]}
    set: {data.root: "{needs}", widths.min: "{width}", widths.max: "{width}", objective.distill_loss: none}
  - name: "teacher-{kind}"
    factors: {kind: [online, momentum]}
    set: {objective.teacher: "{kind}"}
""")
    monkeypatch.setattr(gridfile, "GRIDS", tmp_path)


def test_a_needed_run_comes_first_with_the_same_seed(chained):
    runs = expand("chained", seeds=(100, 101))
    place = {run.directory: i for i, run in enumerate(runs)}
    students = [run for run in runs if run.cell.startswith("student")]
    assert len(students) == 8
    for run in students:
        needed = runs[place[run.needs]]
        assert place[run.needs] < place[run.directory] and (needed.cell, needed.cfg.seed) == ("teacher-online", run.cfg.seed)
        assert run.cfg.data.root == str(needed.directory)
    after = {job.name: job.after for job in here(runs)}
    assert all(after[run.directory.name] == ((run.needs.name,) if run in students else ()) for run in runs)


def test_only_brings_what_it_needs(chained):
    assert [run.cell for run in expand("chained", only=["student-w0.5"])] == ["teacher-online", "student-w0.5"]


def test_nobody_waits_for_a_run_that_is_finished(chained):
    students = [run for run in expand("chained") if run.needs is not None]
    assert [job.after for job in here(students)] == [()] * len(students)


@pytest.mark.parametrize("widths", [WIDTHS, [0.5]])
@pytest.mark.parametrize("name", sorted(VARIED))
def test_the_manifest_of_a_grid_has_each_cell_in_one_row(name, widths):
    file = gridfile.load(name)
    cells = file.cells(widths, 16)
    manifest = file.manifest(cells)
    assert sorted(manifest.cells) == sorted(cell.name for cell in cells)
    assert all(len(row.labels) == len(manifest.columns) for row in manifest.rows)
    assert len({row.name for row in manifest.rows}) == len({(row.panel, row.short) for row in manifest.rows}) == len(manifest.rows)
    sections = [row.section for row in manifest.rows]
    assert sections == sorted(sections, key=sections.index)  # each stands together
    serving = {cell: width for row in manifest.rows for cell, width in row.cells.items() if width is not None}
    trained = {
        run.cell: run.cfg.widths
        for profile in ("digits", "digits_vit")  # each has what the other's network cannot be
        for run in grid.expand(name, profile, [], [100], widths, [], Path("runs"))
    }
    assert all(trained[cell].min == trained[cell].max == width for cell, width in serving.items())


def test_cells_that_a_network_or_a_launch_cannot_have_are_left_out_unless_asked_for(tmp_path):
    def names(profile, widths, only=(), name="comparison"):
        return {run.cell for run in grid.expand(name, profile, only, [100], widths, [], tmp_path)}

    every = names("digits", [1.0, 0.5])
    assert every - names("digits_vit", [1.0, 0.5]) == {"slimmable-switchable", "slimclr"}
    assert names("digits", [0.5]) & {"slimmable", "slimmable-switchable", "slimclr"} == set()
    with pytest.raises(UserError, match="vit_micro has no BatchNorm"):
        names("digits_vit", [1.0, 0.5], ["slimmable-switchable"])
    for name, left_out in (("paper", {"us3l-r50", "slimclr"}), ("controls", {"sliced-uncalibrated"})):
        assert names("digits", [1.0, 0.5], name=name) - names("digits_vit", [1.0, 0.5], name=name) == left_out


def test_a_run_comes_back_from_json(expanded):
    """As a ledger holds it, so that a job can be submitted again."""
    for runs in expanded.values():
        for run in runs:
            run = dataclasses.replace(run, command=("ablations/run.py", "--grid", "x"))
            assert grid.from_plain(json.loads(json.dumps(grid.to_plain(run)))) == run


@pytest.mark.parametrize(
    "plain",
    [
        {},
        {"cell": "a"},
        {"cell": "a", "config": 3, "directory": "x", "needs": None, "command": []},
        {"cell": "a", "config": {"nothing": 1}, "directory": "x", "needs": None, "command": []},
    ],
)
def test_what_is_no_run_is_refused(plain):
    with pytest.raises(UserError):
        grid.from_plain(plain)


def test_the_reference_of_a_grid_is_its_own_network_from_fresh_weights():
    """``dimensions`` is of another network than its profile, and references are what its cells' fine-tunings are held against."""
    runs = expand("dimensions", seeds=(100, 101))
    found = reference_runs("digits", [], None, runs)
    assert [(run.cell, run.cfg.seed, run.cfg.model.arch) for run in found] == [
        ("untrained", seed, "resnet_small_elastic") for seed in (100, 101)
    ]
    usual = reference_runs("digits", [], None, expand("guidelines"))[0]
    assert usual.cfg.model.arch == "resnet_small" == config.load("digits").model.arch
    several = [runs[0], *expand("guidelines")]
    assert reference_runs("digits", [], None, several)[0].cfg.model.arch == "resnet_small"
