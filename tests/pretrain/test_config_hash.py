"""The hash that names an experiment: what it counts, and that keys added later leave it as it is."""

import dataclasses
from dataclasses import dataclass, field

import pytest
import yaml

from pretrain import config
from pretrain.config import Config, config_hash
from rundir import experiment


def test_a_key_added_at_its_default_renames_no_run():
    """The dataclasses of a later version, with one key more in a section, one at the top and a whole new section."""
    known = {text: config_hash(config.load("digits", [text])) for text in ("seed=3", "widths.fixed=[1.0,0.5]", "optimizer.lr=0.1")}

    @dataclass
    class ModelConfig(config.ModelConfig):
        added: float = 0.5

    @dataclass
    class Section:
        level: list[int] = field(default_factory=lambda: [1])

    @dataclass
    class Later(Config):
        model: ModelConfig = field(default_factory=ModelConfig)
        section: Section = field(default_factory=Section)
        switch: bool = False

    for text, name in known.items():
        now = config.load("digits", [text])
        later = Later(
            **{f.name: getattr(now, f.name) for f in dataclasses.fields(Config) if f.name != "model"},
            model=ModelConfig(**vars(now.model)),
        )
        assert config_hash(later) == name
        later.model.added = 0.25
        changed = config_hash(later)
        later.model.added, later.section.level = 0.5, []
        assert len({name, changed, config_hash(later)}) == 3


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("optimizer.lr=0.3", "optimizer.momentum=0.3"),
        ("widths.min=0.5", "regularizer.alpha=0.5"),
        ("data.size=32", "data.size=16"),
        ("widths.fixed=[]", "widths.fixed=[1.0]"),
        ("widths.fixed=[1.0,0.5]", "widths.fixed=[0.5,1.0]"),
    ],
)
def test_different_settings_have_different_names(one, other):
    assert config_hash(config.load("digits", [one])) != config_hash(config.load("digits", [other]))


def test_a_default_written_out_is_the_same_experiment():
    assert config_hash(config.from_dict({"optimizer": {"lr": 0.05, "epochs": 400}})) == config_hash(config.from_dict({}))


def test_no_default_has_changed():
    """A run's name leaves out what is at its default, so another default would give old names to new experiments."""

    def check(before, now):
        for key, value in before.items():
            if isinstance(value, dict):
                check(value, now[key])
            else:
                assert now[key] == value, key

    check(yaml.safe_load(experiment.DEFAULTS.read_text()), config.to_dict(Config()))


def test_every_default_is_written_down():
    """Reports read configs of older versions, which lack the newest keys: add those and their defaults to rundir/defaults.yaml."""
    assert sorted(experiment.defaults()) == sorted(key for key, _ in experiment._flat(config.to_dict(Config())))


def test_names_stay_from_version_to_version():
    """Another rule would lose every finished run."""
    assert config_hash(config.from_dict({})) == "44136fa3"
    assert config_hash(config.from_dict({"seed": 1, "optimizer": {"lr": 0.1}, "widths": {"fixed": [1.0, 0.5]}})) == "9d294d89"
