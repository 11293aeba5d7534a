"""Configs: what is accepted, what is refused and how, round trips and hashes."""

import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain import config
from pretrain.config import Config
from pretrain.data import sources
from rundir.errors import UserError
from rundir.fields import Number, constraints, value_of

BAD = """
optimiser.lr=1 | did you mean optimizer
optimizer.lrr=1 | did you mean optimizer.lr
arch=resnet18 | unknown key arch; did you mean model.arch?
optimizer.size=32 | unknown key optimizer.size; did you mean data.size?
name=digits | did you mean optimizer.name or data.name?
foo=1 | unknown key foo
a.b.c=1 | unknown key a
format=2 | format 2 is unknown
optimizer=3 | optimizer is a section
optimizer.lr=abc | optimizer.lr
optimizer.lr=nan | optimizer.lr=nan must be finite and above 0
optimizer.lr=inf | finite
optimizer.lr=0 | above 0
optimizer.lr=null | optimizer.lr
optimizer.epochs=0 | in [1,
optimizer.epochs=1.5 | must be a whole number
optimizer.batch_size=1 | in [2,
optimizer.momentum=1.5 | in [0, 1]
optimizer.clip_norm=-1 | at least 0
optimizer.warmup_epochs=16 | below optimizer.epochs
optimizer.name=lars | one of sgd, adamw
seed=-1 | in [0,
seed=x | seed
seed=??? | not a value
seed=true | seed
seed=1e400 | seed
optimizer.lr=${nonsense} | not a value
optimizer.lr=true | optimizer.lr
optimizer.lr=1e400 | finite
objective.distill_weight=inf | finite
optimizer.clip_norm=inf | finite
train.checkpoint_minutes=nan | finite
train.compile=2 | true or false
train.compile=perhaps | train.compile
data.size=5000 | in [1, 4096]
evaluation.protocols=[knnn] | set some of knn, linear_fast, linear, finetune
evaluation.protocols=[knn,knn] | twice
evaluation.protocols=[[knn]] | single values
evaluation.protocols=knn | evaluation.protocols
evaluation.label_fractions=[] | evaluation.label_fractions=[] must be at least one number, and none twice
evaluation.label_fractions=[1.0,1.0] | none twice
evaluation.label_fractions=[0.5,1.5] | in (0, 1]
evaluation.label_seeds=[] | at least one
evaluation.label_seeds=[1,1] | twice
objective.predictor=maybe | one of auto, true, false
objective.temperature=0 | above 0
objective.distill_weight=nan | finite and at least 0
objective.ema_momentum=1.1 | in [0, 1]
objective.teacher=foo | teacher=foo is not known; set one of
objective.teacher=momentm | teacher=momentm is not known; did you mean momentum? Choices: online, chain,
objective.head=shard | head=shard is not known; did you mean shared? Choices: own, shared, none
objective.base_loss=none | base_loss=none is not known; set one of mse,
objective.head=shared objective.base_loss=infonce | set objective.head=own or none
widths.min=0 | widths.min=0.0 must be in (0, 1]
widths.max=1.5 | in (0, 1]
widths.min=0.9 widths.max=0.5 | 0 < min <= max <= 1
widths.per_step=1 | widths.per_step=2 or more
widths.per_step=0 widths.sampling=uniform | in [1,
widths.min=0.999 | same channels
widths.sampling=fixed widths.fixed=[] | lacks widths.max
widths.sampling=fixed widths.fixed=[0.5,0.25] | lacks widths.max
widths.sampling=fixed widths.fixed=[1.0,0.5,0.5] | same channels
widths.sampling=fixed widths.fixed=[1.0,0.5,0.51] | same channels
widths.sampling=fixed widths.fixed=[1.0,0.1] | outside the trained range
widths.fixed=0.5 | widths.fixed
widths=[1] | widths is a section
model.arch=resnet | resnet
model.projector_hidden=0 | in [1,
model.predictor_hidden=-3 | in [1,
regularizer.coefficient=-1 | at least 0
regularizer.kind=group regularizer.alpha=0.2 | coefficient negative
regularizer.kind=group regularizer.groups=1 | groups be at least 2
regularizer.kind=group regularizer.warmup_epochs=9 | at most 8
data.name=mnist | one of digits
data.size=0 | in [1,
data.limit=-1 | in [0,
augment.crop_scale=[1,0.2] | smallest
augment.crop_scale=[0.2] | 2 numbers
augment.crop_scale=[0,1] | above 0
augment.crop_scale=[0.1,nan] | 2 numbers
augment.crop_scale=[[0.1],1] | single values
augment.crop_scale=[true,1] | must be a number
augment.flip=1.5 | in [0, 1]
augment.jitter=[0.4] | 4 numbers
augment.jitter=[1,1,1,0.9] | hue
augment.interpolation=nearest | bilinear, bicubic
augment.blur_sigma=[0,1] | above 0
train.threads=-1 | in [0,
train.threads=1000000000000 | in [0,
train.precision=fp16 train.device=cpu | needs a GPU
train.precision=fp8 | one of fp32, bf16, fp16
diagnostics.images=1 | at least 3
diagnostics.widths=[2.0] | in (0, 1]
diagnostics.widths=[nan] | in (0, 1]
calibration.images=0 | in [2,
nonsense | key=value
"""


@pytest.mark.parametrize("line", BAD.strip().splitlines())
def test_bad_overrides_are_one_clear_line(line):
    overrides, expected = line.split(" | ")
    with pytest.raises(UserError) as caught:
        config.load("digits", overrides.split())
    message = str(caught.value)
    assert expected in message and "\n" not in message


def test_every_preset_loads_and_survives_a_round_trip():
    assert {"digits", "cifar10", "cifar100"} <= set(config.presets())
    for name in config.presets():
        cfg = config.load(name, ["objective.seed_teacher=runs/teacher"] if name.endswith("_seed") else [])
        again = config.from_dict(yaml.safe_load(config.to_yaml(cfg)))
        assert again == cfg and config.config_hash(again) == config.config_hash(cfg)
        assert cfg.experiment.preset == name


def test_a_config_as_dicts_is_what_dataclasses_say_in_their_order_and_shares_nothing():
    cfg = config.load("digits", ["widths.sampling=fixed", "widths.fixed=[1.0,0.5]", "seed=7"])
    cfg.objective.base_options = {"a": [1, {"b": 2}]}
    found, said = config.to_dict(cfg), dataclasses.asdict(cfg)
    assert found == said and json.dumps(found) == json.dumps(said)
    found["widths"]["fixed"].append(9.0)
    found["objective"]["base_options"]["a"][1]["b"] = 9
    assert dataclasses.asdict(cfg) == said


def test_names_agree_with_the_data_room():
    assert constraints(Config)["data.name"].allowed == sources.NAMES


def test_presets_by_file_and_by_name(tmp_path):
    with pytest.raises(UserError, match="did you mean digits"):
        config.load("digit")
    with pytest.raises(UserError, match="unknown preset"):
        config.load(str(tmp_path / "missing.yaml"))
    own = tmp_path / "own.yaml"
    own.write_text("optimizer: {lr: 0.5}\nby_base_loss: {infonce: {optimizer: {lr: 0.7}, objective: {temperature: 0.2}}}\n")
    assert config.load(str(own)).optimizer.lr == 0.5
    chosen = config.load(str(own), ["objective.base_loss=infonce"])
    assert (chosen.optimizer.lr, chosen.objective.temperature) == (0.7, 0.2)
    assert config.load(str(own), ["objective.base_loss=infonce", "optimizer.lr=3"]).optimizer.lr == 3
    for text, expected in (
        ("[1, 2]", "mapping"),
        ("a: [", "is not YAML"),
        ("optimizer: 3", "section"),
        ("by_base_loss: {mse: {optimizer: {lrr: 1}}}", "did you mean"),
        ("by_base_loss: {infonce: {optimizer: {lrr: 1}}}", "did you mean"),
        ("by_base_loss: {infoNCE: {}}", "must map"),
        ("by_base_loss: 3", "must map"),
        ("by_base_loss: {mse: 3}", "sections"),
    ):
        own.write_text(text)
        with pytest.raises(UserError, match=expected) as caught:
            config.load(str(own))
        assert "\n" not in str(caught.value)


def test_defaults_are_the_papers():
    """METHOD section 6, first column (CIFAR ResNet-18, MSE base)."""
    cfg = config.from_dict({})
    assert (cfg.seed, cfg.optimizer.epochs, cfg.optimizer.batch_size) == (100, 400, 512)
    assert (cfg.optimizer.name, cfg.optimizer.momentum, cfg.optimizer.lr) == ("sgd", 0.9, 0.05)
    assert (cfg.model.projector_layers, cfg.model.projector_hidden, cfg.model.projector_out) == (3, 2048, 2048)
    assert cfg.regularizer.coefficient == 5e-4 / 2 and (cfg.regularizer.alpha, cfg.regularizer.groups) == (0.05, 8)
    assert (cfg.objective.temperature, cfg.objective.ema_momentum) == (0.5, 0.99)
    assert (cfg.widths.min, cfg.widths.max, cfg.widths.per_step) == (0.25, 1.0, 3)
    augment = cfg.augment
    assert (augment.crop_scale, augment.jitter, augment.jitter_p) == ([0.2, 1.0], [0.4, 0.4, 0.4, 0.1], 0.8)
    assert (augment.grayscale_p, augment.flip, augment.blur_p) == (0.2, 0.5, [0, 0])


CHANGES = {
    "seed": 1,
    "model.arch": "resnet18_cifar",
    "objective.temperature": 0.2,
    "objective.update": "accumulate",
    "objective.gather_negatives": True,
    "widths.min": 0.5,
    "regularizer.alpha": 0.01,
    "optimizer.lr": 0.1,
    "data.limit": 100,
    "data.name": "cifar10",
    "augment.flip": 0.25,
    "train.precision": "bf16",
    "train.synchronized_bn": True,
    "calibration.images": 100,
}
LABELS = {
    "experiment.cell": "x",
    "experiment.grid": "y",
    "train.device": "cpu",
    "train.threads": 3,
    "data.root": "/x",
    "train.checkpoint_minutes": 1,
    "train.tensorboard": True,
    "data.workers": 2,
    "diagnostics.images": 5,
    "calibration.widths": "[1.0]",
    "evaluation.widths": "[1.0]",
}


def test_hash_changes_with_what_decides_the_result_and_with_nothing_else():
    base = config.config_hash(config.load("digits"))
    assert len(base) == 8 and int(base, 16) >= 0
    changed = [config.config_hash(config.load("digits", [f"{k}={v}"])) for k, v in CHANGES.items()]
    assert len({base, *changed}) == len(CHANGES) + 1
    assert {config.config_hash(config.load("digits", [f"{k}={v}"])) for k, v in LABELS.items()} == {base}


def test_an_override_of_the_default_is_the_same_experiment():
    base = config.load("digits")
    same = config.load("digits", [f"optimizer.lr={base.optimizer.lr}", "widths.max=1", "widths.fixed=[1,0.75,0.5,0.25]"])
    assert config.config_hash(same) == config.config_hash(base) and same == base


@settings(max_examples=30, deadline=None)
@given(st.floats(1e-6, 1e3), st.integers(1, 1000), st.floats(0.01, 0.4), st.integers(0, 2**62))
def test_round_trip_of_any_numbers(lr, epochs, low, seed):
    cfg = config.from_dict({"optimizer": {"lr": lr, "epochs": epochs}, "widths": {"min": low}, "seed": seed})
    again = config.from_dict(yaml.safe_load(config.to_yaml(cfg)))
    assert again == cfg and config.config_hash(again) == config.config_hash(cfg)


@settings(max_examples=150, deadline=None)
@given(
    st.one_of(
        st.binary(max_size=200),
        st.text(max_size=80).map(lambda text: text.encode("utf-8", "surrogatepass")),
        st.text("abc: [{}]&*!<>-?|%@#'\"\\n\t,", max_size=60).map(str.encode),
    )
)
def test_any_bytes_as_a_preset_are_a_config_or_one_line(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("preset") / "own.yaml"
    path.write_bytes(content)
    try:
        config.load(str(path))
    except UserError as error:
        assert "\n" not in str(error)


def test_loading_leaves_no_trace():
    """Neither overrides nor a change of one config reach the next."""
    first = config.load("digits", ["optimizer.lr=9"])
    first.widths.fixed.append(7.0)
    first.augment.crop_scale[0] = 0.9
    assert config.load("digits") == config.load("digits") != first
    assert 7.0 not in config.load("digits").widths.fixed


def test_split_overrides():
    assert config.split_overrides(["--out", "a=b", "optimizer.lr=1", "-x", "_k=2"]) == (
        ["--out", "-x"],
        ["a=b", "optimizer.lr=1", "_k=2"],
    )
    assert config.split_overrides(["--seed=3", "/tmp/a=b", "x"]) == (["--seed=3", "/tmp/a=b", "x"], [])


def test_every_number_has_limits_and_every_name_without_a_hash_is_of_a_field():
    sections = {s.name: s.default_factory for s in dataclasses.fields(Config) if dataclasses.is_dataclass(s.default_factory)}
    fields = {f"{name}.{key.name}": key.type for name, section in sections.items() for key in dataclasses.fields(section)}
    limited = constraints(Config)
    assert [name for name, kind in fields.items() if kind not in ("bool", "str") and name not in limited] == []
    assert all(isinstance(limited[name], Number) for name, kind in fields.items() if kind in ("int", "float"))
    for name in config.NOT_HASHED:
        assert name in fields or any(f.startswith(name + ".") for f in fields)


@pytest.mark.parametrize("name", sorted(constraints(Config)))
def test_nonsense_for_any_value_is_one_line_or_a_config(name):
    """Whatever is written: a config that says it back, or one line with the key."""
    for value in (
        "nan",
        "inf",
        "-inf",
        "-1",
        "true",
        "[]",
        "{a: 1}",
        "null",
        "[nan, nan]",
        "1e400",
        "9" * 400,
        "''",
        '"\\0"',
        "[[1]]",
    ):
        try:
            cfg = config.load("digits", [f"{name}={value}"])
        except UserError as error:
            assert name.split(".")[-1] in str(error) and "\n" not in str(error) and len(str(error)) < 1000
        else:
            found = [value_of(cfg, each) for each in constraints(Config)]
            flat = [x for value in found for x in (value if isinstance(value, list) else [value])]
            assert all(math.isfinite(x) for x in flat if isinstance(x, float))
            assert config.from_dict(yaml.safe_load(config.to_yaml(cfg))) == cfg


def test_true_and_false_are_words_where_a_key_is_a_string():
    for text, expected in (("true", "true"), ("false", "false"), ("True", "true"), ("auto", "auto"), ("on", "true")):
        cfg = config.load("digits", [f"objective.predictor={text}"])
        assert cfg.objective.predictor == expected
    assert config.from_dict({"objective": {"predictor": False}}) == config.from_dict({"objective": {"predictor": "false"}})


def test_configs_are_importable_without_torch():
    code = "import sys; sys.modules['torch'] = None; import pretrain.config as c; print(c.OptimizerConfig().lr, c.presets()[0])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(config.PRESETS).parents[1])
    assert done.stdout == "0.05 cifar10\n", done.stderr
