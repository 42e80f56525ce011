"""Check a simulated world: missing values, water and mass budgets, variability by season, growth of errors.

Nothing here passes or fails: the numbers are written down so that a reader can judge the world.
"""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import Any

__all__ = ["budgets", "doubling_time", "run_check", "variability"]

import numpy as np

from gen.grid import LatLonGrid
from gen.progress import SILENT, Reporter

log = logging.getLogger(__name__)
SEASONS = {"DJF": (12, 1, 2), "MAM": (3, 4, 5), "JJA": (6, 7, 8), "SON": (9, 10, 11)}
STEPS_PER_YEAR = 1461


def run_check(
    world: Path, reference: Path | None = None, out: Path | None = None, reporter: Reporter = SILENT
) -> dict[str, Any]:
    """Check the finished part of a world and, with its perfect-model ensemble, the growth of errors."""
    import zarr

    group: Any = zarr.open_group(str(world), mode="r")
    result: dict[str, Any] = {"world": Path(world).name, "years": 0.0}
    whole = np.isfinite(np.asarray(group["global_mean_column_water"]))
    result["years"] = round(float(whole.sum()) / STEPS_PER_YEAR, 2)
    result["missing_values"] = missing_values(group, whole)
    result["budgets"] = budgets(group, whole)
    result["z500_variability_m"] = variability(group, whole)
    if reference is not None:
        result["error_growth"] = error_growth(Path(reference), group)
    text = json.dumps(strict(result), indent=2, allow_nan=False)
    if out is not None:
        Path(out).write_text(text + "\n")
    reporter.say(text)
    return result


def strict(value: Any) -> Any:
    """Return the same with None for every number that JSON does not have: NaN and infinity."""
    if isinstance(value, dict):
        return {key: strict(item) for key, item in value.items()}
    if isinstance(value, list):
        return [strict(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def missing_values(group: Any, whole: np.ndarray) -> int:
    """Count values that are not finite in every tenth chunk of the finished part."""
    count = 0
    for name in group.array_keys():
        array = group[name]
        if array.ndim < 3:
            continue
        step = array.chunks[0]
        for first in range(0, array.shape[0], 10 * step):
            if whole[first : first + step].all():
                count += int((~np.isfinite(np.asarray(array[first : first + step]))).sum())
    return count


def budgets(group: Any, whole: np.ndarray) -> dict[str, float]:
    """Return global means per day: rain, evaporation, storage of water [mm/day], and the spread of dry mass [Pa].

    Rain minus evaporation equals minus the change of the column's water when water is conserved.
    """
    grid = LatLonGrid(np.asarray(group["latitude"]), np.asarray(group["longitude"]))
    weight = grid.area_weights()
    rain, step = [], group["total_precipitation_6hr"].chunks[0]
    starts = [a for a in range(0, whole.size, step) if whole[a : a + step].all()]
    for first in starts[::5]:
        block = np.asarray(group["total_precipitation_6hr"][first : first + step])
        rain.append(float((block * weight).sum((-2, -1)).mean()))
    evaporation = np.asarray(group["global_mean_evaporation_6hr"])[whole]
    water = np.asarray(group["global_mean_column_water"])
    change = np.diff(water)[whole[1:] & whole[:-1]]
    dry = np.asarray(group["global_mean_dry_surface_pressure"])[whole]
    return {
        "rain_mm_per_day": 4000.0 * float(np.mean(rain)),
        "evaporation_mm_per_day": 4000.0 * float(evaporation.mean()),
        "storage_mm_per_day": 4.0 * float(np.median(change)),
        "column_water_mm": float(water[whole].mean()),
        "dry_pressure_pa": float(dry.mean()),
        "dry_pressure_std_pa": float(dry.std()),
    }


def variability(group: Any, whole: np.ndarray) -> dict[str, dict[str, float]]:
    """Return the standard deviation of daily 500 hPa height about the seasonal mean [m], 30-70 degrees, by season."""
    latitude = np.asarray(group["latitude"])
    level = int(np.flatnonzero(np.asarray(group["level"]) == 500)[0])
    hours, step = np.asarray(group["time"]), group["geopotential"].chunks[0]
    month = hours.astype("datetime64[h]").astype("datetime64[M]").astype(int) % 12 + 1
    out: dict[str, dict[str, float]] = {}
    for season, months in SEASONS.items():
        chosen = [a for a in range(0, whole.size, step) if whole[a : a + step].all() and month[a + step // 2] in months]
        if not chosen:
            continue
        states = np.concatenate([np.asarray(group["geopotential"][a : a + step : 4, level]) for a in chosen[::3]])
        deviation = (states - states.mean(0)).std(0).mean(1) / 9.81
        north = (latitude > 30) & (latitude < 70)
        south = (latitude < -30) & (latitude > -70)
        out[season] = {"north": float(deviation[north].mean()), "south": float(deviation[south].mean())}
    return out


def error_growth(reference: Path, world: Any) -> dict[str, Any]:
    """Return the RMS difference of z500 between member 0 and the truth by day [m], and its doubling times [days]."""
    import zarr

    group: Any = zarr.open_group(str(reference), mode="r")
    grid = LatLonGrid(np.asarray(group["latitude"]), np.asarray(group["longitude"]))
    level = int(np.flatnonzero(np.asarray(group["level"]) == 500)[0])
    index = np.searchsorted(np.asarray(world["time"]), np.asarray(group["time"]))
    leads = group["geopotential"].shape[2]
    square = np.zeros(leads)
    for k, start in enumerate(index):
        member = np.asarray(group["geopotential"][0, k, :, level])
        truth = np.asarray(world["geopotential"][start + 1 : start + 1 + leads, level])
        square += ((member - truth) ** 2 * grid.area_weights()).sum((-2, -1)) / len(index)
    rmse = np.sqrt(square) / 9.81
    daily = rmse[3::4]
    return {
        "starts": len(index),
        "z500_rmse_m_by_day": [round(float(v), 2) for v in daily],
        "doubling_days_by_day": [round(v, 2) for v in doubling_time(daily)],
        "note": "doubling_days_by_day is null where errors do not grow: they never double",
    }


def doubling_time(daily: np.ndarray) -> list[float]:
    """Return ln 2 / growth rate between successive days of a series of errors; infinity where they do not grow."""
    rate = np.diff(np.log(daily))
    return [float(np.log(2.0) / r) if r > 0 else float("inf") for r in rate]
