"""Losses, teachers, width rules and regularizers in files of the user's own: docs/extending.md, provenance, names, mistakes."""

import hashlib
import json
import re
import shlex
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import yaml

from pretrain import config, run
from pretrain.checkpoints import files, open_checkpoint
from pretrain.config import config_hash, methods
from pretrain.training import pretrain
from results.frame import load_runs
from rundir import experiment
from rundir.directory import RunDirectory
from rundir.errors import UserError
from tests.pretrain.tiny import OVERRIDES

GUIDE = (Path(__file__).resolve().parents[2] / "docs" / "extending.md").read_text(encoding="utf-8")
MINE = re.search(r"```python\n(import torch.nn.functional as F\n\n\ndef smooth_distance.*?)```", GUIDE, re.S)[1]
COMMAND = re.search(r"^python pretrain/run.py (--preset digits .*mine\.py:smooth_distance.*)$", GUIDE, re.M)[1]
PARTS_FILE = re.search(r"```python\n(import torch\n\nfrom pretrain\.objective\.regularization.*?)```", GUIDE, re.S)[1]
PARTS_COMMAND = re.search(r"^python pretrain/run.py (--preset digits .*parts\.py:.*)$", GUIDE, re.M)[1]
QUICK = [*OVERRIDES, "optimizer.epochs=1", "widths.sampling=sandwich"]


def own(folder, text, name="mine.py"):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_the_page_trains_its_loss_and_says_so(tmp_path, monkeypatch):
    """The command of the page, with the settings of a quick run behind it."""
    monkeypatch.chdir(tmp_path)
    own(tmp_path, MINE)
    assert run.main([*shlex.split(COMMAND), *QUICK, "objective.predictor=true"]) == 0
    directory = tmp_path / "runs" / "mine"
    sha = hashlib.sha256(MINE.encode()).hexdigest()
    written = yaml.safe_load((directory / "config.yaml").read_text(encoding="utf-8"))["objective"]
    assert written["base_loss"] == f"{tmp_path}/mine.py:smooth_distance@{sha[:12]}" and written["base_options"] == {"beta": 0.5}
    provenance = json.loads((directory / "provenance.json").read_text(encoding="utf-8"))
    expected = {"file": f"{tmp_path}/mine.py", "name": "smooth_distance", "sha256": sha}
    assert provenance["own_files"] == {"objective.base_loss": expected}
    (tmp_path / "mine.py").unlink()  # a trained network needs it no more
    assert open_checkpoint(directory).config.objective.base_options == {"beta": 0.5}


def test_the_page_trains_its_other_parts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own(tmp_path, PARTS_FILE, "parts.py")
    assert run.main([*QUICK, "objective.ema_schedule=constant", "widths.options.count=1", *shlex.split(PARTS_COMMAND)]) == 0
    provenance = json.loads((tmp_path / "runs" / "parts" / "provenance.json").read_text(encoding="utf-8"))
    assert sorted(provenance["own_files"]) == ["objective.teacher", "regularizer.kind", "widths.sampling"]


def test_the_loss_is_what_is_trained(tmp_path):
    """The file's loss with its option and the built-in that it repeats give the same weights to the bit."""
    same = own(
        tmp_path,
        "import torch.nn.functional as F\n\n\ndef cosine(student, target, *, scale: float = 2.0):\n"
        "    return -F.cosine_similarity(student, target.detach(), dim=1).mean() * scale\n",
    )
    settings = [
        [f"objective.base_loss={same}:cosine", "objective.base_options.scale=1.0", "objective.predictor=true"],
        [f"objective.base_loss={same}:cosine", "objective.predictor=true"],
        ["objective.base_loss=mse"],
    ]
    weights = []
    for index, setting in enumerate(settings):
        pretrain(config.load("digits", [*QUICK, *setting]), tmp_path / str(index))
        weights.append(files.load(tmp_path / str(index) / "checkpoint.pt")["encoder"])
    assert all(torch.equal(weights[0][name], weights[2][name]) for name in weights[2])
    assert not all(torch.equal(weights[1][name], weights[2][name]) for name in weights[2])


PARTS = {
    "objective.distill_loss": "import torch.nn.functional as F\n\n\ndef part(student, wider):\n"
    "    return F.mse_loss(student, wider)\n",
    "objective.teacher": "from pretrain.objective.teaching import Guide\n\n\nclass Part(Guide):\n    def __init__(self, setting):\n"
    "        super().__init__()\n",
    "widths.sampling": "def part(widths, draw, progress):\n    return [widths.max, draw.choice([0.25, 0.5])]\n",
    "regularizer.kind": "from pretrain.objective.regularization import Regularizer\n\n\nclass Part(Regularizer):\n    pass\n",
    "objective.base_loss": "import torch\nfrom pretrain.objective.losses import LossModule\n\n\nclass Part(LossModule):\n"
    "    def __init__(self, setting, *, share: float = 0.5):\n        super().__init__()\n"
    "        self.share = share\n        self.register_buffer('mean', torch.zeros(setting.dim))\n\n"
    "    def forward(self, student, target):\n"
    "        return (student - target.detach() - self.mean).square().mean()\n\n"
    "    def observe(self, targets):\n"
    "        self.mean.lerp_(torch.cat(list(targets)).detach().mean(0), self.share)\n",
}


@pytest.mark.parametrize("key", PARTS)
def test_every_part_may_be_a_file_of_ones_own(key, tmp_path):
    name = "Part" if "class" in PARTS[key] else "part"
    path = own(tmp_path, PARTS[key])
    more = ["objective.teacher=online", "objective.ema_schedule=constant"] if key != "objective.teacher" else []
    cfg = config.load("digits", [*QUICK, *more, "seed=4", "optimizer.epochs=2", f"{key}={path}:{name}"])
    pretrain(cfg, tmp_path / "run")
    payload = files.load(tmp_path / "run" / "checkpoint.pt")
    assert RunDirectory(tmp_path / "run").status()["state"] == "done"
    if key == "objective.base_loss":  # what it remembers is in the checkpoint
        assert payload["base_loss"]["mean"].abs().sum() > 0
    runs = load_runs(tmp_path)
    column = {"widths.sampling": "sampling", "regularizer.kind": "regularizer"}.get(key, key.partition(".")[2])
    assert runs[column].tolist() == [f"mine.py:{name}"]


def test_a_moved_file_is_the_same_experiment_and_a_changed_one_is_not(tmp_path, monkeypatch):
    (tmp_path / "there").mkdir()
    here, there = own(tmp_path, MINE), own(tmp_path / "there", MINE)
    monkeypatch.chdir(tmp_path)
    one, moved, relative = (
        config.load("digits", [f"objective.base_loss={place}:smooth_distance"]) for place in (here, there, "mine.py")
    )
    assert config_hash(one) == config_hash(moved) == config_hash(relative)
    assert experiment.changes(config.to_dict(one)) == experiment.changes(config.to_dict(moved))
    own(tmp_path, MINE + "\n# another experiment\n")
    changed = config.load("digits", [f"objective.base_loss={here}:smooth_distance"])
    other = config.load("digits", [f"objective.base_loss={there}:smooth_distance", "objective.base_options.beta=0.5"])
    assert len({config_hash(cfg) for cfg in (one, changed, other)}) == 3
    # What was begun with the file as it was does not continue with another, in another process.
    methods.find.cache_clear()
    with pytest.raises(UserError, match=r"mine\.py has changed since.*put it back, or set objective\.base_loss="):
        pretrain(one, tmp_path / "run")
    assert not (tmp_path / "run").exists()


LOSS = "objective.base_loss"
MISTAKES = [
    (LOSS, "def f(student, target): return 1", "f", r"returns 1; let it return a scalar tensor with a gradient"),
    (LOSS, "def f(student, target): return student - target", "f", r"returns a tensor of shape \(\d+, 16\)"),
    (LOSS, "def f(student, target): return target.mean()", "f", r"gradient for the student's outputs; detach the targets only"),
    (LOSS, "def f(target, student): return (student.detach() - target).mean()", "f", r"f takes \(target, student\), but"),
    (LOSS, "def f(*rows): return rows[0].mean()", "f", r"f takes \(\*rows\), but a base loss takes"),
    (LOSS, "def f(student, target): return student.mean() * float('nan')", "f", r"returns nan for .*; let it return a finite loss"),
    (LOSS, "def f(student, target): return (student - target.zero_()).mean()", "f", r"changes its arguments in place"),
    (LOSS, "import sys\nsys.exit(0)", "f", r"mine\.py cannot be imported: SystemExit: 0; run python mine\.py"),
    (
        LOSS,
        "from pretrain.objective.losses import LossModule\nclass F(LossModule):\n"
        "    def __init__(self, setting): self.a = 1\n"
        "    def forward(self, student, target): return student.mean()",
        "F",
        r"does not call that of LossModule; let it begin with",
    ),
    (
        "objective.teacher",
        "from pretrain.objective.teaching import Guide\nclass F(Guide):\n    def __init__(self, setting): 1 / 0",
        "F",
        r"fails when it is made: ZeroDivisionError: division by zero \(line 3 of mine\.py\); correct it",
    ),
    (
        "regularizer.kind",
        "from pretrain.objective.regularization import Regularizer\nclass F(Regularizer):\n"
        "    def __init__(self, cfg, model): self.cfg = cfg",
        "F",
        r"let it begin with super\(\)\.__init__\(cfg, model\)",
    ),
    (
        LOSS,
        "def f(student, target): return student.nothing",
        "f",
        r"fails on outputs of shape .*AttributeError.*\(line 1 of mine\.py\); correct it",
    ),
    (LOSS, "def f(student): return student.mean()", "f", r"f takes \(student\), but a base loss takes \(student, target\)"),
    (LOSS, "def f(student, target, scale=2): return student.mean()", "f", r"f takes \(student, target, scale\), but"),
    (LOSS, "def f(student, target, *, scale): return student.mean()", "f", r"the option scale has no default; give it one"),
    (LOSS, "def f(student, target, *, scale=[1]): return student.mean()", "f", r"the option scale must be a float, an int"),
    (LOSS, "def f(student, target): return 1", "g", r"mine\.py has no function or class g"),
    (LOSS, "f = 3", "f", r"mine\.py has no function or class f"),
    (LOSS, "import nothing_of_this_name", "f", r"mine\.py cannot be imported: ModuleNotFoundError: No module named"),
    (LOSS, "def f(:", "f", r"mine\.py cannot be imported: SyntaxError"),
    (LOSS, "class F:\n    pass", "F", r"must extend pretrain\.objective\.losses\.module\.LossModule"),
    (
        LOSS,
        "from pretrain.objective.losses import LossModule\nclass F(LossModule):\n    def __init__(self): super().__init__()\n"
        "    def forward(self, student, target): return student.mean()",
        "F",
        r"__init__ takes \(\), but .* takes \(setting\)",
    ),
    (
        LOSS,
        "import torch\nfrom pretrain.objective.losses import LossModule\nclass F(LossModule):\n"
        "    def __init__(self, setting):\n        super().__init__()\n        self.w = torch.nn.Parameter(torch.ones(1))\n"
        "    def forward(self, student, target): return student.mean()",
        "F",
        r"has parameters, which nothing trains",
    ),
    ("objective.distill_loss", "def f(student, teacher): return student.mean()", "f", r"or some of them, student first"),
    ("objective.distill_loss", "def f(student): return student.mean()", "f", r"or some of them, student first"),
    ("objective.teacher", "def f(student): return student", "f", r"a teacher must be a class that extends pretrain\.objective"),
    ("objective.teacher", "class F:\n    pass", "F", r"must extend pretrain\.objective\.teaching\.Guide"),
    ("widths.sampling", "class F:\n    pass", "F", r"a width rule is a function of \(widths, draw, progress\), not a class"),
    ("widths.sampling", "def f(widths, draw, progress): return [0.25, 1.0]", "f", r"the widest first"),
    ("widths.sampling", "def f(widths, draw, progress): return [2.0]", "f", r"return a list of widths within \[0\.25, 1\.0\]"),
    ("widths.sampling", "def f(widths, draw, progress): return [1.0, 1 / 0]", "f", r"fails: ZeroDivisionError: .*; correct it"),
    ("widths.sampling", "def f(widths, draw, progress): return 0.5", "f", r"gives 0\.5; let it return a list"),
    ("regularizer.kind", "class F:\n    pass", "F", r"must extend pretrain\.objective\.regularization\.Regularizer"),
]


@pytest.mark.parametrize(("key", "text", "name", "message"), MISTAKES)
def test_a_mistake_is_one_line_and_leaves_nothing(key, text, name, message, tmp_path, capsys):
    path = own(tmp_path, text)
    with pytest.raises(UserError, match=message) as found:
        pretrain(config.load("digits", [*QUICK, f"{key}={path}:{name}"]), tmp_path / "run")
    assert key in str(found.value) and "\n" not in str(found.value) and len(str(found.value)) < 700
    assert not (tmp_path / "run").exists()


TEACHER = (
    "from pretrain.objective.teaching import Guide\n\nclass Part(Guide):\n    def __init__(self, setting):\n"
    "        super().__init__()\n\n    def targets(self, now):\n        "
)
LATE = [
    ("objective.teacher", TEACHER + "return None", r"returns NoneType from targets; let it return a Seen"),
    ("objective.teacher", TEACHER + "return now.seen.z[0]", r"returns Tensor from targets; let it return a Seen"),
    (
        "objective.teacher",
        TEACHER + "return now.seen._replace(z=tuple(z[:, :4] for z in now.seen.z))",
        r"let it return one target for",
    ),
    (
        "objective.teacher",
        TEACHER + "return now.seen._replace(z=now.seen.z[:1])",
        r"returns z of shapes \[\(\d+, 16\)\] from targets",
    ),
    ("objective.teacher", TEACHER + "return now.nothing", r"fails: AttributeError: .*'nothing' \(line 8 of mine\.py\); correct it"),
    (
        "regularizer.kind",
        "from pretrain.objective.regularization import Regularizer\nclass Part(Regularizer):\n"
        "    def add_gradient(self, widest=False): raise ValueError",
        r"fails: ValueError \(line 3 of mine\.py\); correct it",
    ),
    (
        "objective.distill_loss",
        "calls = []\n\ndef part(student, target):\n    calls.append(1)\n"
        "    assert len(calls) < 4, 'no more'\n    return (student - target).square().mean()",
        r"fails: AssertionError: no more \(line 5 of mine\.py\); correct it",
    ),
    (
        "objective.base_loss",
        "calls = []\n\ndef part(student, target):\n    calls.append(1)\n    return (student - target.detach())"
        ".square().mean() / (len(calls) < 2 or float('nan'))",
        r"training diverged: .*or correct /.*mine\.py:part@.* and train in another",
    ),
]


@pytest.mark.parametrize(("key", "text", "message"), LATE)
def test_a_mistake_that_shows_in_training_is_one_line_too(key, text, message, tmp_path):
    path = own(tmp_path, text)
    with pytest.raises(UserError, match=message) as found:
        pretrain(config.load("digits", [*QUICK, f"{key}={path}:{'Part' if 'class' in text else 'part'}"]), tmp_path / "run")
    assert "\n" not in str(found.value)
    status = RunDirectory(tmp_path / "run").status()
    assert status["state"] == "failed" and str(found.value) in status["why"]


def test_a_crash_of_the_project_is_no_fault_of_the_users_file(tmp_path, monkeypatch):
    path = own(tmp_path, MINE)
    monkeypatch.setattr("pretrain.training.loop.learning_rate", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        pretrain(config.load("digits", [*QUICK, f"objective.base_loss={path}:smooth_distance"]), tmp_path / "run")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("objective.base_loss=mine.py:", r"must be text; set it without brackets and without a colon at its end"),
        ("objective.base_loss=[mse]", r"objective\.base_loss=\['mse'\] must be text"),
        (
            "HERE:smooth_distance objective.base_options.beta=",
            r"objective\.base_options\.beta is empty; set objective\.base_options",
        ),
        ("optimizer.lr=big", r"optimizer\.lr=big must be a number"),
        ("optimizer.epochs=1.5", r"optimizer\.epochs=1\.5 must be a whole number"),
        ("optimizer.epochs=", r"optimizer\.epochs is empty; set a value"),
        ("train.compile=perhaps", r"train\.compile=perhaps must be true or false"),
        ("objective.base_loss=mine.py", r"names no function or class; set FILE\.py:NAME"),
        ("objective.base_loss=nowhere.py:f", r": /.*/nowhere\.py cannot be read \(No such file or directory\); set the path"),
        ("objective.base_loss=mine", r"is not known; set one of mse, .*, or FILE\.py:NAME for a base loss of your own"),
        ("objective.base_options.gamma=1", r"objective\.base_options: objective\.base_loss=mse has no options"),
        (
            "objective.base_options=3",
            r"objective\.base_options=3 must be NAME: VALUE pairs; set objective\.base_options\.NAME=VALUE",
        ),
        ("HERE:smooth_distance objective.base_options.gamma=1", r"unknown key objective\.base_options\.gamma"),
        ("HERE:smooth_distance objective.base_options.beta=wide", r"objective\.base_options\.beta=wide must be a number"),
        ("HERE:smooth_distance objective.base_options.beta=nan", r"objective\.base_options\.beta=nan must be finite"),
    ],
)
def test_a_setting_that_names_no_part_or_no_option_is_one_line(setting, message, tmp_path):
    path = own(tmp_path, MINE)
    with pytest.raises(UserError, match=message) as found:
        config.load("digits", [word.replace("HERE", f"objective.base_loss={path}") for word in setting.split()])
    assert "\n" not in str(found.value)


def test_a_limit_in_an_annotation_is_kept(tmp_path):
    path = own(
        tmp_path,
        "from typing import Annotated\nfrom rundir.fields import Number\n"
        + MINE.replace("beta: float", "beta: Annotated[float, Number(0, strictly=True)]"),
    )
    with pytest.raises(UserError, match=r"objective\.base_options\.beta=-1\.0 must be above 0"):
        config.load("digits", [f"objective.base_loss={path}:smooth_distance", "objective.base_options.beta=-1"])
    cfg = config.load("digits", [f"objective.base_loss={path}:smooth_distance", "objective.base_options.beta=2"])
    assert cfg.objective.base_options == {"beta": 2.0}


def test_the_pages_loss_is_the_huber_distance_of_unit_vectors():
    scope = {"F": F}
    exec(MINE, scope)
    s, t = torch.randn(2, 6, 5, dtype=torch.float64).unbind()
    difference = (F.normalize(s, dim=1) - F.normalize(t, dim=1)).abs()
    expected = torch.where(difference < 0.1, difference.square() / 0.2, difference - 0.05).mean()
    assert float(scope["smooth_distance"](s, t, beta=0.1)) == pytest.approx(float(expected))


CHECKED = (
    MINE
    + """

def check(cfg):
    from rundir.errors import UserError
    if cfg.optimizer.batch_size < 100:
        raise UserError(f"optimizer.batch_size={cfg.optimizer.batch_size} is too small for it; set at least 100")
    assert cfg.seed != 13
"""
)


def test_a_file_checks_the_configs_that_name_it(tmp_path):
    named = f"objective.base_loss={own(tmp_path, CHECKED)}:smooth_distance"
    cfg = config.load("digits", [named, "optimizer.batch_size=100"])
    with pytest.raises(UserError, match=r"^optimizer\.batch_size=64 is too small for it; set at least 100$"):
        config.load("digits", [named, "optimizer.batch_size=64"])
    with pytest.raises(UserError, match=r"fails in check\(cfg\): AssertionError \(line \d+ of mine.py\); correct it$"):
        config.load("digits", [named, "optimizer.batch_size=100", "seed=13"])
    (tmp_path / "mine.py").unlink()
    assert config.from_dict(config.to_dict(cfg)) == cfg


def test_a_run_of_an_earlier_process_is_read_without_its_file(tmp_path):
    """Nothing of a user's file runs because a config of a finished run names it."""
    text = CHECKED + "\nopen(__file__ + '.ran', 'a').close()\n"
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    named = {"objective": {"base_loss": f"{own(tmp_path, text)}:smooth_distance@{digest}"}, "optimizer": {"batch_size": 64}}
    assert config.from_dict(named).optimizer.batch_size == 64 and not (tmp_path / "mine.py.ran").exists()
