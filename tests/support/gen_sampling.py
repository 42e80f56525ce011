"""What the stories of `gen sample` share: the command line of the tiny model, files as bits, processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import xarray as xr

from gen.cli import main

MEMBER, INIT, LEAD = "number", "time", "prediction_timedelta"


def arguments(workshop: Path, out: Path | None, **wish: Any) -> list[str]:
    """Return the arguments of a one-day forecast with the tiny model; None leaves an option out, True is a flag."""
    options = {"init": "2020-01-02", "members": 8, "lead": "1d", "model": workshop / "model", "device": "cpu"}
    options = {**options, "dtype": "float32", "out": out, **wish}
    given = [(f"--{k.replace('_', '-')}", v) for k, v in options.items() if v is not None]
    return ["sample", "--no-plot", "--quiet", *(t for k, v in given for t in ([k] if v is True else [k, str(v)]))]


def draw(workshop: Path, out: Path, **wish: Any) -> xr.Dataset:
    """Run the command and return the file in memory."""
    assert main(arguments(workshop, out, **wish)) == 0
    return read(out)


def read(path: Path) -> xr.Dataset:
    opened = xr.open_zarr(path) if path.is_dir() else xr.open_dataset(path)
    with opened:
        return opened.load()


def same_bits(a: xr.Dataset, b: xr.Dataset) -> bool:
    """Return whether all data variables have the same names, coordinates and bits."""
    names = sorted(map(str, a.data_vars))
    if names != sorted(map(str, b.data_vars)):
        return False
    return all(a[n].equals(b[n]) and a[n].values.tobytes() == b[n].values.tobytes() for n in names)


def child(command: list[str], **environment: str) -> subprocess.Popen[str]:
    """Start a process with the packages of this checkout."""
    root = str(Path(__file__).parents[2])
    env = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.Popen(
        [sys.executable, *command], env=env, cwd=root, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def until(condition: Callable[[], bool], seconds: float = 120.0) -> None:
    """Wait until something is true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.01)


def count_samples(run: Callable[[], int]) -> int:
    """Return how many units a successful run computes."""
    from forecast.task import Forecast

    count, sample = 0, Forecast.sample

    def counted(self: Forecast, unit: Any) -> Any:
        nonlocal count
        count += 1
        return sample(self, unit)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Forecast, "sample", counted)
        assert run() == 0
    return count


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    """Return the only line of standard error."""
    caught = capsys.readouterr()
    lines = caught.err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ") and not caught.out
    return lines[0]
