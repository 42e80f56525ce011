"""Simulated atmosphere: a world of real physics, unlimited and redistributable, made by the jcm model.

`simulate_world` integrates jcm (SPEEDY physics, T31, eight levels) in an environment of its own and writes 6-hourly
fields under their WeatherBench names to one Zarr store. The world is made of segments, each spun up from its own
perturbed state of rest; segments follow one another on the calendar but are independent atmospheres, so trajectories
never cross a segment boundary (attribute `segments` of the store). `simulate_reference` restarts the model from stored
states with small perturbations: the perfect-model ensemble, the ceiling of any forecast of this world.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

__all__ = ["WorldRequest", "ensure_environment", "simulate_reference", "simulate_world"]

import numpy as np

from gen.data.jcm_environment import ensure_environment
from gen.data.variables import VARIABLES

SOURCE = "jcm 3.0.0 (SPEEDY physics, T31, 8 sigma levels), climatological sea surface; simulated, not observed"
LEVELS_HPA = (100, 250, 500, 700, 850)
STEPS_PER_DAY, CHUNK_DAYS = 4, 10
SURFACE = (
    "10m_u_component_of_wind",
    "10m_v_component_of_wind",
    "2m_temperature",
    "mean_sea_level_pressure",
    "surface_pressure",
    "total_precipitation_6hr",
)
UPPER = ("geopotential", "temperature", "u_component_of_wind", "v_component_of_wind", "specific_humidity")
BUDGET = ("global_mean_evaporation_6hr", "global_mean_column_water", "global_mean_dry_surface_pressure")


@dataclass(frozen=True)
class WorldRequest:
    """What to simulate.

    Args:
        out: the Zarr store to write; an unfinished one is continued.
        years: length in years of 365.25 days, rounded up to whole segments.
        seed: selects the world; segment k of a world is spun up with seed `1000 * seed + k`.
        start: first calendar day (ISO).
        segment_days: length of one independent segment, a multiple of ten days.
        spinup_days: integration thrown away before each segment, a multiple of ten days.
        workers: processes that run at the same time.
    """

    out: Path
    years: float = 30.0
    seed: int = 0
    start: str = "1995-01-01"
    segment_days: int = 1100
    spinup_days: int = 200
    workers: int = max(1, os.cpu_count() or 1)

    def __post_init__(self) -> None:
        if self.years <= 0:
            raise ValueError(f"years must be positive; got {self.years}")
        for name in ("segment_days", "spinup_days"):
            if getattr(self, name) % CHUNK_DAYS or getattr(self, name) <= 0:
                raise ValueError(f"{name} must be a positive multiple of {CHUNK_DAYS}; got {getattr(self, name)}")
        if self.workers < 1 or self.seed < 0:
            raise ValueError(f"workers must be at least 1 and seed at least 0; got {self.workers}, {self.seed}")
        try:
            np.datetime64(self.start, "D")
        except ValueError:
            raise ValueError(f"start must be a day like 1995-01-01; got {self.start!r}") from None

    @property
    def segments(self) -> int:
        """Return the number of segments."""
        return int(np.ceil(self.years * 365.25 / self.segment_days))


def simulate_world(request: WorldRequest, report: Callable[[int, int], None] = lambda done, total: None) -> Path:
    """Integrate the world; `report(done, total)` is called with ten-day chunks. Returns the store's path."""
    exists = _made_before(request)
    python = ensure_environment()
    work = request.out.with_suffix(".work")
    work.mkdir(parents=True, exist_ok=True)
    if not exists:
        _create_world(request, python, work)
    jobs = [_segment_job(request, k, work) for k in range(request.segments)]
    chunks = request.segment_days // CHUNK_DAYS
    progress = [Path(job["restarts"]) / f"segment{job['segment']:03d}.json" for job in jobs]

    def count() -> int:
        return sum(json.loads(p.read_text())["chunks"] for p in progress if p.exists())

    todo = [job for job, p in zip(jobs, progress, strict=True) if not _finished(p, chunks)]
    # the last segment is the one to hold out: make it first, so that it can be checked while the others run
    _run_jobs(python, list(reversed(todo)), work, request.workers, lambda: report(count(), chunks * len(jobs)))
    _consolidate(request.out, complete=True)
    return request.out


def simulate_reference(
    world: Path,
    out: Path,
    times: list[str],
    *,
    members: int = 10,
    lead_days: int = 10,
    epsilon: float = 0.01,
    seed: int = 0,
    workers: int = 1,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Path:
    """Run the perfect-model ensemble from the stored restarts of `world` nearest to `times`.

    Each non-zonal spectral coefficient of the starting state is multiplied by `1 + epsilon N(0, 1)`. The result is a
    forecast store with dims (number, time, prediction_timedelta, [level], latitude, longitude).
    """
    import zarr

    python = ensure_environment()
    group: Any = zarr.open_group(world, mode="r")
    restarts = sorted((world.with_suffix(".work") / "restarts").glob("state*.npz"))
    if not restarts:
        raise ValueError(f"{world} has no restarts; simulate it with keep_restarts")
    hours = np.asarray(group["time"])
    stored = {int(p.stem[5:]): p for p in restarts}
    indices = np.array(sorted(stored))
    wanted = [np.datetime64(t, "h").astype(int) for t in times]
    chosen = sorted({int(indices[np.abs(hours[indices] - w).argmin()]) for w in wanted})
    work = out.with_suffix(".work")
    work.mkdir(parents=True, exist_ok=True)
    frames = lead_days * STEPS_PER_DAY
    _create_reference(group, out, hours[chosen], members, frames, epsilon, seed)
    starts = [
        {"index": k, "restart": str(stored[i]), "time": str(np.datetime64(int(hours[i]), "h"))}
        for k, i in enumerate(chosen)
    ]
    levels = [int(p) for p in np.asarray(group["level"])]
    common: dict[str, Any] = {"kind": "ensemble", "out": str(out), "levels": levels}
    common |= {"members": members, "frames": frames, "epsilon": epsilon, "seed": seed, "progress": str(work)}
    jobs = [{**common, "starts": starts[k::workers], "segment": k} for k in range(workers)]
    _run_jobs(python, jobs, work, workers, lambda: report(len(list(work.glob("*.done"))), len(starts)))
    _consolidate(out, complete=True)
    return out


def _finished(progress: Path, chunks: int) -> bool:
    return progress.exists() and json.loads(progress.read_text())["chunks"] >= chunks


def _segment_job(request: WorldRequest, k: int, work: Path) -> dict[str, Any]:
    start = np.datetime64(request.start, "D") + np.timedelta64(k * request.segment_days, "D")
    return {
        "kind": "segment",
        "segment": k,
        "start": str(start),
        "days": request.segment_days,
        "spinup_days": request.spinup_days,
        "seed": 1000 * request.seed + k,
        "first": k * request.segment_days * STEPS_PER_DAY,
        "levels": list(LEVELS_HPA),
        "world": str(request.out),
        "restarts": str(work / "restarts"),
        "keep_restarts": k == request.segments - 1,
    }


def _run_jobs(python: Path, jobs: list[dict[str, Any]], work: Path, workers: int, tick: Callable[[], None]) -> None:
    """Run worker processes, at most `workers` at a time; the first failure stops all."""
    waiting, running = list(jobs), list[tuple[subprocess.Popen[bytes], Path]]()
    script = Path(__file__).with_name("jcm_worker.py")
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                job = waiting.pop(0)
                name = work / f"{job['kind']}{job.get('segment', 0):03d}"
                name.with_suffix(".job").write_text(json.dumps(job))
                with name.with_suffix(".log").open("wb") as sink:
                    command = [str(python), "-W", "ignore", str(script), str(name.with_suffix(".job"))]
                    running.append((subprocess.Popen(command, stdout=sink, stderr=sink), name.with_suffix(".log")))
            for process, log_file in list(running):
                if process.poll() is not None:
                    running.remove((process, log_file))
                    if process.returncode:
                        last = log_file.read_text().strip().splitlines()[-1:]
                        raise RuntimeError(f"the simulator stopped: {' '.join(last)} (log: {log_file})")
            tick()
            time.sleep(0.5)
    finally:
        for process, _ in running:
            process.terminate()


def _coordinates(group: Any, axes: dict[str, tuple[np.ndarray, dict[str, str]]]) -> None:
    for name, (values, attributes) in axes.items():
        array = group.create_array(name, shape=values.shape, dtype=values.dtype, dimension_names=[name])
        array[:] = values
        array.attrs.update(attributes)


HORIZONTAL = {
    "latitude": {"standard_name": "latitude", "units": "degrees_north", "axis": "Y"},
    "longitude": {"standard_name": "longitude", "units": "degrees_east", "axis": "X"},
    "level": {"standard_name": "air_pressure", "units": "hPa", "positive": "down", "axis": "Z"},
}
UNITS = {
    "global_mean_evaporation_6hr": "m",
    "global_mean_column_water": "kg m-2",
    "global_mean_dry_surface_pressure": "Pa",
}


def _wish(request: WorldRequest) -> dict[str, Any]:
    """Return what decides the world."""
    return {k: v for k, v in asdict(request).items() if k not in ("out", "workers")}


def _made_before(request: WorldRequest) -> bool:
    """Return whether the store exists; refuse one made by another request."""
    import zarr

    if not request.out.exists():
        return False
    made = dict(zarr.open_group(request.out, mode="r").attrs).get("request")
    if made != _wish(request):
        raise ValueError(f"{request.out} was made by another request ({made}); choose another --out")
    return True


def _create_world(request: WorldRequest, python: Path, work: Path) -> None:
    """Create the store with its coordinates."""
    import zarr

    grid = work / "grid.npz"
    _run_jobs(python, [{"kind": "grid", "out": str(grid)}], work, 1, lambda: None)
    with np.load(grid, allow_pickle=False) as data:
        static = dict(data)
    count = request.segments * request.segment_days * STEPS_PER_DAY
    # a frame is the END of a six-hour step: the first one is 06 UTC of the first day
    hours = np.datetime64(request.start, "h").astype("int64") + 6 * (1 + np.arange(count))
    partial = request.out.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    group = zarr.open_group(partial, mode="w")
    length = request.segment_days * STEPS_PER_DAY
    segments = [
        {"first": k * length, "stop": (k + 1) * length, "seed": 1000 * request.seed + k}
        for k in range(request.segments)
    ]
    group.attrs.update({"source": SOURCE, "synthetic": "true", "request": _wish(request), "segments": segments})
    levels = np.array(LEVELS_HPA, dtype="int64")
    time_units = {"units": "hours since 1970-01-01", "calendar": "proleptic_gregorian", "standard_name": "time"}
    _coordinates(group, {"time": (hours, time_units), **_axes(static, levels)})
    shape, chunk = (static["latitude"].size, static["longitude"].size), STEPS_PER_DAY * CHUNK_DAYS
    deep = (levels.size, *shape)
    for name in UPPER:
        _create(group, name, (count, *deep), (chunk, *deep), "time level latitude longitude")
    for name in SURFACE:
        _create(group, name, (count, *shape), (chunk, *shape), "time latitude longitude")
    for name in BUDGET:
        _create(group, name, (count,), (count,), "time", chunk=chunk)
    for name in ("land_sea_mask", "geopotential_at_surface"):
        _create(group, name, shape, shape, "latitude longitude")[:] = static[name]
    partial.replace(request.out)


def _axes(static: dict[str, np.ndarray], levels: np.ndarray) -> dict[str, tuple[np.ndarray, dict[str, str]]]:
    values = {"latitude": static["latitude"], "longitude": static["longitude"], "level": levels}
    return {name: (values[name], HORIZONTAL[name]) for name in values}


def _create(group: Any, name: str, shape: Any, chunks: Any, dims: str, chunk: int | None = None) -> Any:
    array = group.create_array(
        name,
        shape=shape,
        chunks=(chunk,) if chunk else chunks,
        dtype="float32",
        dimension_names=dims.split(),
        fill_value=float("nan"),
    )
    array.attrs["units"] = VARIABLES[name].units if name in VARIABLES else UNITS[name]
    return array


def _create_reference(
    world: Any, out: Path, hours: np.ndarray, members: int, frames: int, epsilon: float, seed: int
) -> None:
    import zarr

    if out.exists():
        made: Any = zarr.open_group(out, mode="r")
        same = np.array_equal(made["time"], hours) and made["geopotential"].shape[:3] == (members, hours.size, frames)
        if not same or (made.attrs["epsilon"], made.attrs["seed"]) != (epsilon, seed):
            raise ValueError(f"{out} was made by another request (starts, members, length, epsilon or seed)")
        return
    partial = out.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    group = zarr.open_group(partial, mode="w")
    group.attrs.update({"source": SOURCE, "synthetic": "true", "epsilon": epsilon, "seed": seed})
    static = {name: np.asarray(world[name]) for name in ("latitude", "longitude")}
    levels = np.asarray(world["level"])
    units = {"units": "hours since 1970-01-01", "calendar": "proleptic_gregorian"}
    _coordinates(
        group,
        {
            "number": (np.arange(members, dtype="int64"), {"standard_name": "realization"}),
            "time": (hours, {**units, "standard_name": "forecast_reference_time"}),
            "prediction_timedelta": (
                6 * (1 + np.arange(frames, dtype="int64")),
                {"units": "hours", "dtype": "timedelta64[ns]", "standard_name": "forecast_period"},
            ),
            **_axes(static, levels),
        },
    )
    lead, shape = (members, hours.size, frames), (static["latitude"].size, static["longitude"].size)
    for name in UPPER:
        dims = "number time prediction_timedelta level latitude longitude"
        _create(group, name, (*lead, levels.size, *shape), (1, 1, frames, levels.size, *shape), dims)
    for name in SURFACE:
        dims = "number time prediction_timedelta latitude longitude"
        _create(group, name, (*lead, *shape), (1, 1, frames, *shape), dims)
    partial.replace(out)


def _consolidate(store: Path, *, complete: bool) -> None:
    import zarr

    group = zarr.open_group(store, mode="r+")
    group.attrs["complete"] = complete
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that format 3 does not specify consolidated metadata
        zarr.consolidate_metadata(store)
