"""Modules that are slow to import, imported when they are used."""

from __future__ import annotations

import importlib
from typing import Any


class Lazy:
    """Stands for the module ``name`` and imports it at the first look at one of its attributes."""

    def __init__(self, name: str):
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(importlib.import_module(self._name), attribute)
