"""A cluster's settings: what a user copies from ``example.yaml``, checked before anything is submitted.

The settings say what each *kind* of job may use. What one cluster's jobs have in common (partition, account, ...) is at the
top, what differs below ``kinds``; a kind's own line wins. ``--slurm key=value`` comes last: ``partition=gpu`` is the line at the
top, ``pretrain.gpus=4`` the one of a kind.
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rundir.errors import UserError, suggestion
from rundir.files import Damaged, parse_yaml, read_yaml

COMMON = ("partition", "account", "qos", "constraint", "array_parallelism", "setup", "extra")
MOST = 2**53  # of a number
GENERATED = (
    "array",
    "dependency",
    "kill-on-invalid-dep",
    "signal",
    "requeue",
    "output",
    "error",
    "time",
    "nodes",
    "mem",
    "job-name",
    "comment",
    "open-mode",
)


@dataclass
class Resources:
    """What one kind of job gets. Empty texts and zeros leave a thing to the cluster's own default."""

    partition: str = ""
    account: str = ""
    qos: str = ""
    constraint: str = ""
    array_parallelism: int = 100  # array tasks that run at once
    setup: list[str] = field(default_factory=list)  # shell lines before Python starts
    extra: dict[str, Any] = field(default_factory=dict)  # any other option of sbatch
    nodes: int = 1
    gpus: int = 0  # a node
    tasks: int = 0  # processes per node; 0: one per GPU, or one
    cpus: int = 1  # a process
    mem_gb: float = 0  # a node
    time: str = "1:00:00"  # limit; what is not done by then saves, is queued again and goes on

    @property
    def tasks_per_node(self) -> int:
        """Processes on each node."""
        return self.tasks or max(1, self.gpus)

    @property
    def processes(self) -> int:
        """Processes of one job."""
        return self.nodes * self.tasks_per_node

    @property
    def minutes(self) -> int:
        """The time limit in minutes."""
        return minutes(self.time)


@dataclass
class Cluster:
    """All settings. ``kinds`` holds every kind of job, complete."""

    kinds: dict[str, Resources] = field(default_factory=dict)
    python: str = ""  # on the compute nodes; "": the one that submits
    scratch: str = ""  # a folder that all nodes see, for the files that submitting needs; "": next to the logs
    requeues: int = 100  # a job that was queued again so often has failed
    signal_seconds: int = 120  # before its time limit a job is told to save
    stalled_minutes: float = 15  # a running job that has said nothing for so long is shown as stalled
    gpu_tflops: float = 0  # what one GPU reaches in training, for estimates; 0: no estimate

    @property
    def processes(self) -> dict[str, int]:
        """Processes of one job, by kind."""
        return {kind: own.processes for kind, own in self.kinds.items()}

    def parameters(self, kind: str) -> dict[str, Any]:
        """What submitit's Slurm executor takes for jobs of ``kind``."""
        own = self.kinds[kind]
        given = {name: getattr(own, name) for name in ("partition", "account", "qos", "constraint") if getattr(own, name)}
        if own.gpus:
            given["gpus_per_node"] = own.gpus
        if own.mem_gb:
            given["mem"] = f"{math.ceil(own.mem_gb * 1024)}M"
        return given | {
            "nodes": own.nodes,
            "ntasks_per_node": own.tasks_per_node,
            "cpus_per_task": own.cpus,
            "time": own.minutes,
            "signal_delay_s": self.signal_seconds,
            "array_parallelism": own.array_parallelism,
            "setup": list(own.setup),
            "additional_parameters": {"requeue": True, **own.extra},
            # Since Slurm 22.05 srun does not take the CPUs of a task from its job. One lost process ends all of them.
            "srun_args": [f"--cpus-per-task={own.cpus}", "--kill-on-bad-exit=1", "--export=ALL"],
        }


def minutes(text: str | int) -> int:
    """Slurm's ways to write a time, ``90``, ``M:S``, ``H:M:S``, ``D-H``, ``D-H:M``, ``D-H:M:S``, in minutes, rounded up.

    Raises:
        UserError: it is none of these, or no time at all.
    """
    found = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", str(text).strip())
    if not found:
        raise UserError(f"time={text} is not a time; set minutes, or a time such as 12:00:00 or 2-00:00:00")
    days, *parts = found.groups()
    numbers = [int(part) for part in parts if part is not None]
    if days is not None:
        hours, mins, secs = (*numbers, 0, 0)[:3]
    else:
        hours, mins, secs = {1: (0, *numbers, 0), 2: (0, *numbers), 3: tuple(numbers)}[len(numbers)]
    total = math.ceil(((int(days or 0) * 24 + hours) * 60 + mins) + secs / 60)
    if total < 1:
        raise UserError(f"time={text} is no time at all; set at least 1 (minute)")
    return total


def load(path: Path | None, overrides: Sequence[str], kinds: Mapping[str, Mapping[str, Any]]) -> Cluster:
    """Settings of the file ``path`` (None: none), ``key=value`` overrides on top, for ``kinds`` with these sizes by default.

    Raises:
        UserError: the file cannot be read, or a key or value is wrong.
    """
    raw = _read(path) if path is not None else {}
    where = str(path) if path is not None else "--slurm"
    for text in overrides:
        _merge_override(raw, text, kinds)
    own = raw.pop("kinds", None) or {}
    _check_keys(raw, [*COMMON, *(f.name for f in dataclasses.fields(Cluster))], where, list(kinds))
    if not isinstance(own, dict):
        raise UserError(f"{where}: below kinds stand kinds of jobs: {', '.join(kinds)}")
    _check_keys(own, list(kinds), f"{where}: kinds")
    common = {key: raw.pop(key) for key in COMMON if key in raw}
    made = {}
    for kind, default in kinds.items():
        mine = own.get(kind) or {}
        if not isinstance(mine, dict):
            raise UserError(f"{where}: kinds.{kind} must hold lines such as gpus: 1")
        _check_keys(mine, [f.name for f in dataclasses.fields(Resources)], f"{where}: kinds.{kind}")
        extra = {**(common.get("extra") or {}), **(mine.get("extra") or {})}
        made[kind] = _filled(Resources, {**default, **common, **mine, "extra": extra}, kind)
    cluster = _filled(Cluster, raw, "")
    cluster.kinds = made
    _check(cluster)
    return cluster


def from_dict(raw: Mapping[str, Any]) -> Cluster:
    """The settings that ``dataclasses.asdict`` made a mapping of. Raises :class:`UserError` where they are damaged."""
    try:
        cluster = _filled(Cluster, {key: value for key, value in raw.items() if key != "kinds"}, "")
        cluster.kinds = {kind: _filled(Resources, own, kind) for kind, own in raw["kinds"].items()}
    except (AttributeError, KeyError, TypeError):
        raise UserError("the settings in the ledger are damaged; start the grid again instead") from None
    _check(cluster)
    return cluster


def _read(path: Path) -> dict:
    try:
        content = read_yaml(path)
    except FileNotFoundError:
        raise UserError(f"there is no file {path}; copy slurm/example.yaml, or leave out --slurm-config") from None
    except Damaged as error:
        raise UserError(str(error)) from None
    if not isinstance({} if content is None else content, dict):
        raise UserError(f"{path} must hold lines such as partition: gpu; see slurm/example.yaml")
    return content or {}


def _merge_override(raw: dict, text: str, kinds: Mapping[str, Any]) -> None:
    key, sign, value = text.partition("=")
    if not sign:
        raise UserError(f"--slurm {text} is not of the form key=value, for example partition=gpu or pretrain.gpus=4")
    try:
        parsed = parse_yaml(value, key)
    except Damaged as error:
        raise UserError(f"--slurm {text[:200]}: {error}; quote it") from None
    *sections, last = key.split(".")
    if not sections:
        if last in kinds or last == "kinds":
            kind = last if last in kinds else next(iter(kinds))
            raise UserError(f"--slurm {text}: {last} is not a setting but holds some; set for example {kind}.gpus=4")
        _check_keys({last: parsed}, [*COMMON, *(f.name for f in dataclasses.fields(Cluster))], "--slurm", list(kinds))
    if sections and sections[0] in kinds:
        sections = ["kinds", *sections]
    target = raw
    for section in sections:
        inner = target.get(section) or {}
        if not isinstance(inner, dict):
            raise UserError(f"--slurm {text}: {section} has nothing below it")
        target[section] = target = inner
    target[last] = parsed


def _check_keys(raw: Mapping, known: Sequence[str], where: str, kinds: Sequence[str] = ()) -> None:
    for key in raw:
        if key in known:
            continue
        if kinds and key in {f.name for f in dataclasses.fields(Resources)}:
            raise UserError(
                f"{where}: {key} is set for each kind of job; set {kinds[0]}.{key}={raw[key]}, in a file below kinds: {kinds[0]}"
            )
        raise UserError(f"{where}: unknown key {key}; {suggestion(key, known, otherwise='known are ' + ', '.join(known))}")


def _filled(cls: type, raw: Mapping[str, Any], kind: str):
    """An object of dataclass ``cls`` with these values, each of its field's type."""
    values = {}
    for entry in dataclasses.fields(cls):
        if entry.name not in raw or raw[entry.name] is None:
            continue
        values[entry.name] = _typed(raw[entry.name], str(entry.type), f"{kind}.{entry.name}".lstrip("."))
    return cls(**values)


def _typed(value: Any, wanted: str, name: str) -> Any:
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and -MOST < value < MOST
    if wanted == "str" and (isinstance(value, str) or number):
        return os.path.expanduser(os.path.expandvars(str(value)))
    if wanted == "int" and number and int(value) == value:
        return int(value)
    if wanted == "float" and number:
        return float(value)
    if wanted.startswith("list") and isinstance(value, list) and all(isinstance(line, str) for line in value):
        return list(value)
    if wanted.startswith("dict") and isinstance(value, dict):
        return dict(value)
    said = {"str": "a text", "int": "a whole number", "float": "a number", "list[str]": "a list of texts"}.get(wanted, "a mapping")
    raise UserError(f"{name}={repr(value)[:200]} must be {said}")


def _check(cluster: Cluster) -> None:
    for kind, own in cluster.kinds.items():
        for name, least in (("array_parallelism", 1), ("nodes", 1), ("gpus", 0), ("tasks", 0), ("cpus", 1), ("mem_gb", 0)):
            if not least <= getattr(own, name) < math.inf:
                raise UserError(f"{kind}.{name}={getattr(own, name)} must be at least {least}")
        try:
            limit = own.minutes
        except UserError as error:
            raise UserError(f"{kind}.{error}") from None
        if cluster.signal_seconds >= limit * 60:
            raise UserError(
                f"signal_seconds={cluster.signal_seconds} is not before {kind}.time={own.time}; set less of it, or more time"
            )
        for key, value in {
            "partition": own.partition,
            "account": own.account,
            "qos": own.qos,
            "constraint": own.constraint,
            **own.extra,
        }.items():
            if not str(value).isprintable() or not str(key).isprintable():
                raise UserError(f"{kind}: {key!r} must be one line of printable characters")
        for key in own.extra:
            if str(key).replace("_", "-") in GENERATED:
                raise UserError(
                    f"extra.{key} is not free; time, nodes, mem_gb and the like have keys of their own, dependencies "
                    "and arrays are made here"
                )
    for name, least in (("requeues", 0), ("signal_seconds", 1), ("stalled_minutes", 0), ("gpu_tflops", 0)):
        if not least <= getattr(cluster, name) < math.inf:
            raise UserError(f"{name}={getattr(cluster, name)} must be at least {least}")
