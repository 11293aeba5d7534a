"""Errors a user can fix, and how a command line shows them: what :mod:`rundir` says of them."""

from rundir.cli import cli
from rundir.errors import UserError, check_choice, suggestion

__all__ = ["UserError", "check_choice", "cli", "suggestion"]
