"""pyproject.toml, requirements.txt and environment.yml name the same packages in agreeing versions."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest
import yaml
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
PYTHONS = ["3.10", "3.11", "3.12", "3.13"]
INSTALLED_BY_MAKE = ("core", "dev", "export", "search", "detection", "segmentation")
CONDA_NAMES = {"torch": "pytorch"}
CONDA_ONLY = {"python", "pip", "detectron2"}  # detectron2 is not on PyPI under its own name
PIP_ONLY_EXTRA = "segmentation"  # conda-forge lacks the forks
DOCS_EXTRA = "docs"  # only `make docs` installs it
TORCH_BRINGS = ("nvidia-", "cuda-", "triton")
# Import names that differ from the names under which the packages are installed.
IMPORTED_AS = {
    "sklearn": "scikit-learn", "PIL": "pillow", "yaml": "pyyaml", "mmengine": "onedl-mmengine", "mmcv": "onedl-mmcv",
    "mmseg": "onedl-mmsegmentation", "pkg_resources": "setuptools",
}  # fmt: skip
OURS = {"rundir", "pretrain", "transfer", "ablations", "results", "slurm", "tests", "benchmarks", "scripts", "examples"}


def load_pyproject() -> dict[str, list[Requirement]]:
    """The requirements by extra; those of the project itself under ``core``."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = {"core": project["dependencies"], **project["optional-dependencies"]}
    return {group: [Requirement(text) for text in texts] for group, texts in groups.items()}


def load_pins() -> list[Requirement]:
    lines = (line.partition("#")[0].strip() for line in (ROOT / "requirements.txt").read_text().splitlines())
    return [Requirement(line) for line in lines if line]


def load_conda() -> tuple[list[Requirement], list[Requirement]]:
    """The packages from conda-forge, and those in the pip section."""
    entries = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    conda = [Requirement(entry) for entry in entries if isinstance(entry, str)]
    pip = [Requirement(text) for entry in entries if isinstance(entry, dict) for text in entry["pip"]]
    return conda, pip


def applies(requirement: Requirement, python: str) -> bool:
    environment = {**default_environment(), "python_version": python, "python_full_version": f"{python}.0"}
    return requirement.marker is None or requirement.marker.evaluate(environment)


def pin_faults(groups: dict[str, list[Requirement]], pins: list[Requirement], python: str) -> list[str]:
    """What is wrong with requirements.txt for one Python version."""
    faults, versions = [], {}
    for pin in pins:
        if [specifier.operator for specifier in pin.specifier] != ["=="]:
            faults.append(f"{pin} is not pinned with ==")
        elif applies(pin, python):
            if canonicalize_name(pin.name) in versions:
                faults.append(f"{pin.name} is pinned twice for Python {python}")
            versions[canonicalize_name(pin.name)] = next(iter(pin.specifier)).version
    for group in INSTALLED_BY_MAKE:
        for wanted in groups[group]:
            version = versions.get(canonicalize_name(wanted.name))
            if not applies(wanted, python):
                continue
            if version is None:
                faults.append(f"{wanted.name} is not in requirements.txt for Python {python}")
            elif not wanted.specifier.contains(version, prereleases=True):
                faults.append(f"{wanted.name}=={version} in requirements.txt is not {wanted.specifier}")
    return faults


def conda_faults(groups: dict[str, list[Requirement]], conda: list[Requirement], pip: list[Requirement]) -> list[str]:
    """What is wrong with environment.yml."""

    def listed(requirements, names=None):
        names = names or {}
        return {names.get(r.name, canonicalize_name(r.name)): str(r.specifier) or "any" for r in requirements}

    everything = [r for group, requirements in groups.items() if group not in (PIP_ONLY_EXTRA, DOCS_EXTRA) for r in requirements]
    expected = listed((r for r in everything if r.marker is None), CONDA_NAMES)
    found = {name: specifier for name, specifier in listed(conda).items() if name not in CONDA_ONLY}
    pairs = [(expected, found), (listed(groups[PIP_ONLY_EXTRA]), listed(pip))]
    faults = []
    for wanted, there in pairs:
        for name in sorted(wanted.keys() | there.keys()):
            ours, theirs = wanted.get(name, "nothing"), there.get(name, "nothing")
            if ours != theirs:
                faults.append(f"{name}: pyproject.toml {ours}, environment.yml {theirs}")
    return faults


@pytest.mark.parametrize("python", PYTHONS)
def test_requirements_pin_what_pyproject_asks_for(python):
    assert pin_faults(load_pyproject(), load_pins(), python) == []


def test_pre_commit_formats_as_make_lint_does():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    rev = next(repo["rev"] for repo in hooks if repo["repo"].endswith("/ruff-pre-commit"))
    assert [str(pin.specifier) for pin in load_pins() if pin.name == "ruff"] == [f"=={rev.removeprefix('v')}"]


def test_requirements_name_no_machine_and_no_cuda_packages():
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    assert not [line for line in lines if line.startswith(("-", "/", ".")) or "://" in line or " @ " in line]
    assert not [pin.name for pin in load_pins() if pin.name.startswith(TORCH_BRINGS)]


def test_environment_agrees_with_pyproject():
    assert conda_faults(load_pyproject(), *load_conda()) == []


def test_environment_uses_conda_forge_only_and_has_what_only_conda_has():
    channels = yaml.safe_load((ROOT / "environment.yml").read_text())["channels"]
    assert channels == ["conda-forge", "nodefaults"]
    python = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    conda = {requirement.name: str(requirement.specifier) for requirement in load_conda()[0]}
    assert conda["python"] == python and conda.keys() >= CONDA_ONLY


def test_same_package_has_one_range_in_all_extras():
    ranges: dict[str, set] = {}
    for requirements in load_pyproject().values():
        for requirement in requirements:
            ranges.setdefault(canonicalize_name(requirement.name), set()).add(str(requirement.specifier))
    assert {name: found for name, found in ranges.items() if len(found) > 1} == {}


@pytest.mark.parametrize(
    ("pins", "fault"),
    [
        ("numpy==1.20", "numpy==1.20 in requirements.txt is not >=2.0"),
        ("scipy==1.17", "numpy is not in requirements.txt"),
        ("numpy>=2.0", "numpy>=2.0 is not pinned"),
        ("numpy==2.4\nnumpy==2.5", "numpy is pinned twice"),
        ('numpy==2.4; python_version >= "3.12"', "numpy is not in requirements.txt for Python 3.11"),
    ],
)
def test_a_difference_in_requirements_would_be_found(pins, fault):
    groups = {"core": [Requirement("numpy>=2.0")], "dev": [], "export": [], "search": [], "detection": [], "segmentation": []}
    faults = pin_faults(groups, [Requirement(pin) for pin in pins.splitlines()], "3.11")
    assert any(fault in found for found in faults), faults


@pytest.mark.parametrize(
    ("conda", "pip", "fault"),
    [
        ("pytorch>=2.5", "onedl-mmcv", "pytorch: pyproject.toml >=2.6, environment.yml >=2.5"),
        ("torch>=2.6", "onedl-mmcv", "pytorch: pyproject.toml >=2.6, environment.yml nothing"),
        ("pytorch>=2.6\nseaborn", "onedl-mmcv", "seaborn: pyproject.toml nothing"),
        ("pytorch>=2.6", "onedl-mmcv<3", "onedl-mmcv"),
        ("pytorch>=2.6\nonedl-mmcv", "", "onedl-mmcv"),
    ],
)
def test_a_difference_in_environment_would_be_found(conda, pip, fault):
    groups = {"core": [Requirement("torch>=2.6")], PIP_ONLY_EXTRA: [Requirement("onedl-mmcv")]}
    faults = conda_faults(groups, *([Requirement(line) for line in text.splitlines()] for text in (conda, pip)))
    assert any(fault in found for found in faults), faults


def imported_packages(source: str) -> set[str]:
    """Top-level names of all modules that a file imports."""
    nodes = list(ast.walk(ast.parse(source)))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    froms = {node.module for node in nodes if isinstance(node, ast.ImportFrom) and not node.level}
    return {name.partition(".")[0] for name in plain | froms}


def test_every_import_is_a_declared_dependency():
    declared = {canonicalize_name(r.name) for requirements in load_pyproject().values() for r in requirements}
    known = declared | CONDA_ONLY | set(sys.stdlib_module_names) | OURS
    missing = {}
    for room in sorted(OURS):
        for path in sorted((ROOT / room).rglob("*.py")):
            names = {IMPORTED_AS.get(name, name) for name in imported_packages(path.read_text())}
            unknown = {name for name in names if name not in known and canonicalize_name(name) not in known}
            if unknown - {"tomllib"}:  # in the standard library since 3.11
                missing[str(path.relative_to(ROOT))] = unknown
    assert missing == {}
