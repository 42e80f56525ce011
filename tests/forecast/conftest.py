"""The tiny model that the tests of the forecast share."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def tiny() -> ModuleType:
    """Return the module `tiny.py` beside this file, once in a process."""
    if "forecast_tiny" not in sys.modules:
        found = importlib.util.spec_from_file_location("forecast_tiny", Path(__file__).with_name("tiny.py"))
        assert found and found.loader
        sys.modules["forecast_tiny"] = module = importlib.util.module_from_spec(found)
        found.loader.exec_module(module)
    return sys.modules["forecast_tiny"]


@pytest.fixture(scope="session")
def workshop(tiny: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with world.zarr, codec/, latents.zarr and model/."""
    return Path(tiny.workshop(tmp_path_factory.mktemp("tiny")))


@pytest.fixture(scope="session")
def demo_sized(tiny: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an untrained model with the channels and the grid of the demo."""
    return Path(tiny.demo_sized(tmp_path_factory.mktemp("demo")))


@pytest.fixture(scope="session")
def states() -> ModuleType:
    """Return the module `states.py` beside this file, once in a process."""
    return _module("forecast_states", "states.py")


@pytest.fixture(scope="session")
def states_workshop(states: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with model/ (which draws states) and world.nc."""
    return Path(states.workshop(tmp_path_factory.mktemp("states")))


def _module(name: str, file: str) -> ModuleType:
    if name not in sys.modules:
        found = importlib.util.spec_from_file_location(name, Path(__file__).with_name(file))
        assert found and found.loader
        sys.modules[name] = module = importlib.util.module_from_spec(found)
        found.loader.exec_module(module)
    return sys.modules[name]
