"""What the stories of `gen sample` share: the tiny model of the forecast's tests, eight members, wrong commands."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import xarray as xr


def _module(name: str, path: Path) -> ModuleType:
    """Return the module in a file, once in a process."""
    if name not in sys.modules:
        found = importlib.util.spec_from_file_location(name, path)
        assert found and found.loader
        sys.modules[name] = module = importlib.util.module_from_spec(found)
        found.loader.exec_module(module)
    return sys.modules[name]


sampling = _module("gen_sampling", Path(__file__).with_name("sampling.py"))


@pytest.fixture(scope="session")
def tiny() -> ModuleType:
    """Return the module that builds the tiny model of the forecast's tests."""
    return _module("forecast_tiny", Path(__file__).parents[1] / "forecast" / "tiny.py")


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
