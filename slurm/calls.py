"""Calls as plain data, so that a job can be submitted again without unpickling anything.

A ledger is stored among runs, and runs are handed on. What is read from it is therefore data only: the name of a function of this
project that is marked for it (:func:`from_ledger`), and arguments in JSON.
"""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rundir.errors import UserError
from slurm.jobs import Job

ROOT = Path(__file__).resolve().parent.parent
MARK = "may_be_called_from_a_ledger"


def from_ledger(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator: ``function``, of a module's top level, may be called with arguments that a ledger holds, which it must check."""
    setattr(function, MARK, True)
    return function


def described(job: Job) -> dict | None:
    """The call of ``job`` as plain data; None where its function is not :func:`from_ledger` or its arguments are not plain."""
    if not getattr(job.function, MARK, False):
        return None
    try:
        plain = json.loads(json.dumps(job.args, allow_nan=False))
    except (TypeError, ValueError):
        return None
    if plain != list(job.args):
        return None
    return {"function": _name(job.function), "args": plain, "stop": _name(job.stop) if job.stop else ""}


def rebuilt(call: object, job: str) -> tuple[Callable[..., Any], tuple, Callable[..., Any] | None]:
    """Function, arguments and stop of a call that :func:`described` gave.

    Raises:
        UserError: it is not such a call; ``job`` is whose.
    """
    if call is None:
        raise UserError(f"{job} cannot be submitted again by itself (its call is not in the ledger); start the grid again instead")
    if not isinstance(call, dict) or not isinstance(call.get("args"), list):
        raise UserError(f"the ledger's call of {job} is damaged; start the grid again instead")
    stop = _found(call["stop"], job) if call.get("stop") else None
    return _found(call.get("function"), job), tuple(call["args"]), stop


def _name(function: Callable[..., Any]) -> str:
    return f"{function.__module__}:{function.__qualname__}"


def _found(name: object, job: str) -> Callable[..., Any]:
    module, _, function = str(name).partition(":")
    found = None
    if re.fullmatch(r"\w+(\.\w+)*", module) and (ROOT / module.partition(".")[0] / "__init__.py").is_file():
        try:
            found = getattr(importlib.import_module(module), function, None)
        except ImportError:
            found = None
    if not getattr(found, MARK, False):
        raise UserError(
            f"the ledger names {name} as the call of {job}, which is no job of this project; start the grid again instead"
        )
    return found
