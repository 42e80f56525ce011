"""The small ensemble that the writer tests share."""

from __future__ import annotations

from types import ModuleType

import pytest
import writers_ensemble


@pytest.fixture(scope="session")
def ensemble() -> ModuleType:
    """Return the module that writes it."""
    return writers_ensemble
