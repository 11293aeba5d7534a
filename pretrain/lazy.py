"""Modules that are slow to import, imported when they are used."""

from __future__ import annotations

import importlib
from typing import Any


class Lazy:
    """A placeholder for the module ``name`` that imports it when one of its attributes is first used."""

    def __init__(self, name: str):
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(importlib.import_module(self._name), attribute)
