"""The small ensemble that the writer tests share."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def ensemble() -> ModuleType:
    """Return the module `ensemble.py` beside this file."""
    specification = importlib.util.spec_from_file_location("writers_ensemble", Path(__file__).with_name("ensemble.py"))
    assert specification and specification.loader
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module
