"""Only what differs in the seed alone is averaged and paired: everything else stands apart, named by what differs."""

import json

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from results.claims.judging import judge
from results.claims.schema import Claim
from results.frame import current, load, load_all, load_runs
from results.report import build
from rundir.experiment import changes, defaults, listed
from tests.results.synthetic import config, record, write_run


def runs_in(root):
    return current(load_runs(root))


def settings_by_run(root):
    return dict(zip(*(load_runs(root)[name] for name in ("run", "setting")), strict=True))


def test_seeds_of_two_learning_rates_are_two_experiments(tmp_path, undrawn_module):
    for seed, lr in ((100, 0.05), (101, 0.05), (102, 0.0001)):
        write_run(tmp_path / "guidelines", config(seed=seed, optimizer={"lr": lr}), [record(1.0, seed / 1000)])
    base = "digits at 16 pixels, resnet_small, 20 epochs, batch 128"
    assert sorted(set(load(tmp_path)["setting"])) == [base, f"{base}, optimizer.lr=0.0001"]
    first, second = [table for table in build(tmp_path, tmp_path / "out").tables if table.title.startswith("Guidelines")]
    means = {
        table.caption.split(".")[0] + table.caption.split(".")[1]: [s.mean for row in table.rows for s in row.scores if s]
        for table in (first, second)
    }
    assert sorted(means.values()) == [[0.1005], [0.102]]
    assert "optimizer.lr=0.0001" in second.caption and "optimizer.lr" not in first.caption


def test_claims_pair_runs_of_one_setting_only(tmp_path):
    """Seeds 1 to 3 of one cell at one rate, of the other at another: nothing can be paired."""
    cells = {"infonce-mse-online": ("infonce", "mse", "online"), "mse-mse-online": ("mse", "mse", "online")}
    for name, factors in cells.items():
        for seed in range(6):
            lr = 0.05 if (seed < 3) == (name == "mse-mse-online") else 0.2
            cfg = config(*factors, seed, cell=name, optimizer={"lr": lr}, experiment={"overrides": ""})
            write_run(
                tmp_path / "guidelines", cfg, [record(w, 0.5, "linear_fast") for w in (1.0, 0.5)], name=f"{name}-s{seed}-{seed:08x}"
            )
    frames = load_all(tmp_path)
    known = Claim(
        "c", "It is so.", "guidelines", "score", {"better": ["infonce-mse-online"], "than": ["mse-mse-online"], "at": "narrower"}
    )
    verdicts = judge([known], frames.scores, frames.runs, frames.metrics)
    by_run = settings_by_run(tmp_path)
    assert len(set(by_run.values())) > 1
    for verdict in verdicts:
        rates = {
            yaml.safe_load((tmp_path / "guidelines" / run / "config.yaml").read_text())["optimizer"]["lr"] for run in verdict.runs
        }
        assert len({by_run[run] for run in verdict.runs}) <= 1 and len(rates) <= 2
        if verdict.runs:
            for cell in cells:
                own = [run for run in verdict.runs if run.startswith(cell)]
                assert (
                    len(
                        {
                            yaml.safe_load((tmp_path / "guidelines" / run / "config.yaml").read_text())["optimizer"]["lr"]
                            for run in own
                        }
                    )
                    == 1
                )


keys = st.sampled_from(
    [
        ("optimizer", "lr", (0.05, 0.5, 1e-4)),
        ("optimizer", "momentum", (0.9, 0.5)),
        ("regularizer", "coefficient", (2.5e-4, 0.0)),
        ("model", "projector_out", (2048, 64)),
        ("augment", "crop_scale", ([0.2, 1.0], [0.5, 1.0])),
        ("objective", "gather_negatives", (False, True)),
        ("train", "threads", (0, 2)),
        ("data", "workers", (0, 4)),
        ("experiment", "overrides", ("", "a=1")),
    ]
).flatmap(lambda key: st.tuples(st.just(key[0]), st.just(key[1]), st.sampled_from(key[2])))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(keys, max_size=3), min_size=1, max_size=4))
def test_settings_are_equal_exactly_where_only_the_seed_differs(tmp_path_factory, chosen):
    root = tmp_path_factory.mktemp("runs")
    made = {}
    for seed, sets in enumerate(chosen):
        sections: dict = {}
        for section, key, value in sets:
            sections.setdefault(section, {})[key] = value
        cfg = config(seed=seed, **sections)
        made[write_run(root / "g", cfg, name=f"run{seed}").name] = changes(cfg)
    named = settings_by_run(root)
    for one in made:
        for other in made:
            assert (named[one] == named[other]) == (made[one] == made[other])


def test_a_key_that_an_older_version_did_not_have_is_at_its_default(tmp_path):
    write_run(tmp_path, config(seed=1), name="old")
    write_run(tmp_path, config(seed=2, optimizer={"clip_norm": 0.0}, objective={"queue": 0}), name="new")
    write_run(tmp_path, config(seed=3, optimizer={"clip_norm": 1.0}), name="other")
    named = settings_by_run(tmp_path)
    assert named["new"] == named["old"] and named["other"] == f"{named['old']}, optimizer.clip_norm=1.0"
    assert "clip_norm" not in json.dumps(changes(config())) and defaults()["optimizer.clip_norm"] == 0


def test_runs_on_other_images_stand_apart_and_older_ones_are_taken_to_be_as_the_first(tmp_path):
    for seed, images in ((1, "1a"), (2, "1a"), (3, "2b"), (4, "")):
        data = {"name": "folder", "root": f"somewhere{seed}/scans"} | ({"fingerprint": images} if images else {})
        write_run(tmp_path, config(seed=seed, data=data), name=f"run{seed}")
    named = settings_by_run(tmp_path)
    assert named["run1"] == named["run2"] == named["run4"] and named["run3"] == f"{named['run1']}, data.fingerprint=2b"


def test_what_the_launch_changed_names_its_runs_where_it_is_recorded(tmp_path):
    lr = {"optimizer": {"lr": 0.2}, "experiment": {"overrides": "optimizer.lr=0.2"}}
    write_run(tmp_path, config(seed=1, experiment={"overrides": ""}), name="plain")
    write_run(tmp_path, config(seed=2, **lr), name="launched")
    write_run(tmp_path, config(seed=3, optimizer={"lr": 0.2}), name="older")  # alike: of the same launch, before it was recorded
    write_run(tmp_path, config("mse", "mse", "online", seed=2, **lr), name="other-cell")  # its only run
    named = settings_by_run(tmp_path)
    assert named["launched"] == named["older"] == named["other-cell"] == f"{named['plain']}, optimizer.lr=0.2"


def test_students_of_different_teachers_stand_apart(tmp_path):
    for seed, lr in ((1, 0.05), (2, 0.05), (3, 0.5)):
        teacher = write_run(
            tmp_path,
            config("mse", "none", "momentum", seed, (1.0, 1.0), "teacher", optimizer={"lr": lr}),
            name=f"teacher-s{seed}-0000000{seed}",
        )
        write_run(
            tmp_path,
            config(seed=seed, cell="seed", objective={"seed_teacher": str(teacher / "checkpoint.pt")}),
            name=f"seed-s{seed}-1000000{seed}",
        )
    named = settings_by_run(tmp_path)
    students = [named[f"seed-s{seed}-1000000{seed}"] for seed in (1, 2, 3)]
    assert students[0] == students[1] != students[2]
    assert students[2].endswith("objective.seed_teacher=teacher (optimizer.lr=0.5)")


# Scores ---------------------------------------------------------------------------------------------------------------------------

STANDARD = {"weights": "0a", "branch": "student", "size": 16, "limit": 0, "C": 1.0}


def scored(width, value, changed=None, metric="linear_fast", data=None, **settings):
    """A record of this version (``changed`` is {}) or of an older one (None)."""
    said = record(width, value, metric, settings=STANDARD | settings, **({"data": data} if data else {}))
    return said if changed is None else said | {"changed": changed}


def test_an_evaluation_by_hand_has_a_table_of_its_own(tmp_path, undrawn_module):
    for seed in (1, 2):
        write_run(
            tmp_path / "guidelines",
            config(seed=seed),
            [
                scored(1.0, 0.9, {}),
                scored(1.0, 0.4, {"C": 1e-6}, C=1e-6),
                scored(1.0, 0.5, {"limit": 20}, limit=20),
                scored(1.0, 0.6, {"branch": "teacher"}, branch="teacher", weights="0b"),
                scored(1.0, 0.7, {"seed": 9}),
            ],
        )
    made = build(tmp_path / "guidelines", tmp_path / "out")
    *tables, across = made.tables
    means = {table.title: [score.mean for row in table.rows for score in row.scores if score] for table in tables}
    assert means == {
        "Guidelines grid on digits, linear probe": [0.9],
        "Guidelines grid on digits, linear probe (C=1e-06)": [0.4],
        "Guidelines grid on digits, linear probe (limit=20)": [0.5],
        "Guidelines grid on digits, linear probe (branch=teacher)": [0.6],
        "Guidelines grid on digits, linear probe (seed=9)": [0.7],
    }
    assert len(across.value_names) == 5 and "digits, linear probe (limit=20)" in across.value_names
    assert "table-digits-linear_fast.md" in made.paths  # the grid's own keeps its name


def test_scores_of_new_weights_or_data_replace_those_of_old_ones_in_tables(tmp_path):
    write_run(
        tmp_path,
        config(),
        [
            scored(1.0, 0.3, {}, weights="old"),
            scored(1.0, 0.8, {}, data="1a"),
            scored(1.0, 0.9, {}, data="2b"),
            scored(1.0, 0.1, {"C": 2.0}, C=2.0),
        ],
    )
    assert load(tmp_path)[["value", "variant"]].values.tolist() == [[0.9, ""], [0.1, "C=2.0"]]


def test_seeds_scored_on_different_data_are_not_averaged(tmp_path):
    for seed, data in ((1, "1a"), (2, "1a"), (3, "2b"), (4, None)):
        write_run(tmp_path, config(seed=seed), [scored(1.0, 0.5, {}, data=data)])
    named = load(tmp_path).set_index("seed")["variant"].to_dict()
    assert named == {1: "", 2: "", 3: "data=2b", 4: ""}  # a record that does not say it is taken for as most are


def test_older_records_are_told_apart_by_what_they_say(tmp_path):
    """No ``changed``: the odd one out is named, whichever cell it is in; the same of a record with another seed than its run's."""
    cells = [config(seed=seed) for seed in (1, 2)] + [config("mse", "mse", "online", seed=1)]
    for cfg, c in zip(cells, (1.0, 1e-6, 1.0), strict=True):
        write_run(tmp_path, cfg, [scored(1.0, 0.5, C=c)])
    write_run(tmp_path, config(seed=3), [scored(1.0, 0.5) | {"seed": 7}])
    assert sorted(load(tmp_path)["variant"]) == ["", "", "C=1e-06", "seed=7"]


def test_settings_that_differ_with_the_width_alone_are_one_evaluation(tmp_path):
    for seed in (1, 2):
        write_run(tmp_path, config(seed=seed), [scored(width, 0.5, {}, stem=int(64 * width)) for width in (1.0, 0.5)])
    assert set(load(tmp_path)["variant"]) == {""}


def test_fine_tunings_with_other_settings_are_not_averaged(tmp_path, undrawn_module):
    dense = {"task": "detection", "dataset": "voc", "model": "faster_rcnn", "schedule": "quick", "initial": "pretrained"}
    for seed, lr in ((1, 0.02), (2, 0.02), (3, 0.001)):
        write_run(
            tmp_path / "guidelines",
            config(seed=seed),
            [
                record(
                    width, lr, "box_AP", **dense, settings={"weights": str(seed), "norm": "bn", "schedule": {"lr": lr, "steps": 9}}
                )
                for width in (1.0, 0.5)
            ],
        )
    titles = {
        table.title: {score.n for row in table.rows for score in row.scores if score}
        for table in build(tmp_path / "guidelines", tmp_path / "out").tables
        if table.title.startswith("Detection")
    }
    assert titles == {
        "Detection on voc (faster_rcnn, schedule quick)": {2},
        'Detection on voc (faster_rcnn, schedule quick, schedule={"lr": 0.001, "steps": 9})': {1},
    }


values = st.fixed_dictionaries(
    {},
    optional={
        "C": st.sampled_from([1.0, 0.1]),
        "limit": st.sampled_from([0, 20]),
        "size": st.sampled_from([16, "16"]),
        "data": st.sampled_from(["1a", "2b"]),
    },
)


@settings(max_examples=30, deadline=None)
@given(st.lists(values, min_size=1, max_size=5))
def test_variants_are_equal_exactly_where_the_settings_are(tmp_path_factory, chosen):
    root = tmp_path_factory.mktemp("runs")
    full = {"C": 1.0, "limit": 0, "size": 16, "data": "1a"}
    for seed, said in enumerate(chosen):
        write_run(root / "g", config(seed=seed), [scored(1.0, 0.5, **full | said)], name=f"run{seed}")
    variants = load(root).set_index("seed")["variant"].to_dict()
    for one, said in enumerate(chosen):
        for other, also in enumerate(chosen):
            assert (variants[one] == variants[other]) == (json.dumps(full | said) == json.dumps(full | also))
    assert "" in variants.values()


@pytest.mark.parametrize(
    ("settings", "text"),
    [({}, ""), ({"b": 0.1, "a": [1, 2]}, "a=[1, 2], b=0.1"), ({"a": None, "b": True, "c": "x"}, "a=null, b=true, c=x")],
)
def test_settings_in_words(settings, text):
    assert listed(settings) == text


@given(st.dictionaries(st.text("abcdefg", min_size=1, max_size=2), st.integers(0, 2), min_size=1))
def test_however_many_settings_are_all_named(settings):
    assert listed(settings).split(", ") == [f"{name}={settings[name]}" for name in sorted(settings)]
