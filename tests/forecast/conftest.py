"""The tiny model that the tests of the forecast share."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import forecast_states
import pytest
import tiny_forecast


@pytest.fixture(scope="session")
def tiny() -> ModuleType:
    """Return the module that builds the tiny model."""
    return tiny_forecast


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
    """Return the module that builds the tiny model of LaDCast's kind."""
    return forecast_states


@pytest.fixture(scope="session")
def states_workshop(states: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with model/ (which draws states) and world.nc."""
    return Path(states.workshop(tmp_path_factory.mktemp("states")))
