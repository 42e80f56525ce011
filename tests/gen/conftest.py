"""What the stories of `gen sample` share: the tiny model of the forecast's tests, eight members, wrong commands."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import gen_sampling as sampling
import pytest
import tiny_forecast
import xarray as xr


@pytest.fixture(scope="session")
def tiny() -> ModuleType:
    """Return the module that builds the tiny model of the forecast's tests."""
    return tiny_forecast


@pytest.fixture(scope="session")
def workshop(tiny: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(tiny.workshop(tmp_path_factory.mktemp("tiny")))


@pytest.fixture(scope="session")
def eight(workshop: Path, tmp_path_factory: pytest.TempPathFactory) -> xr.Dataset:
    """Eight members of one day."""
    made: xr.Dataset = sampling.draw(workshop, tmp_path_factory.mktemp("eight") / "eight.nc")
    return made


@pytest.fixture
def fails(
    workshop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> Callable[..., str]:
    """Return a function that runs a wrong command and returns its line."""

    def run(**wish: Any) -> str:
        out = tmp_path / "out"
        out.mkdir(exist_ok=True)
        capsys.readouterr()
        code = sampling.main(sampling.arguments(workshop, out / "f.nc", **wish))
        line = sampling.one_line(capsys)
        assert code in (1, 2) and os.listdir(out) == []
        assert [r for r in caplog.records if r.name.startswith(("gen", "forecast")) and r.levelno > 20] == []
        return line

    return run
