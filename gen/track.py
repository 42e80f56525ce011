"""`gen track`: follow or detect cyclones in a forecast file."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

__all__ = ["run_track"]

from gen.progress import SILENT, Reporter

TRACKERS = {"forecast": ("forecast.cyclones.run:Request", "forecast.cyclones.run:track_file")}


def run_track(file: Path, reporter: Reporter = SILENT, task: str = "forecast", **options: Any) -> list[Path]:
    """Track cyclones in every member of a forecast file and return the files written.

    Args:
        file: forecast in any of our layouts, NetCDF or Zarr.
        reporter: where progress and the tables go.
        task: whose tracker to use.
        options: the fields of `forecast.cyclones.run.Request`.

    Raises:
        ValueError: not a forecast, something that the criteria need is missing, or a wrong start or reference.
    """
    request, function = (_find(name) for name in TRACKERS[task])
    found: list[Path] = function(request(file=Path(file), **options), reporter)
    return found


def _find(name: str) -> Any:
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)
