"""Small files of fine rain with known values, and a script that is killed while writing them.

`python writers_rasters.py FOLDER FORMAT` forks one child per kill point; each child writes FOLDER/<point> and kills
itself with SIGKILL at that point, so that nothing of Python runs any more. `python writers_rasters.py PATH rank` stages
every second unit.
"""

from __future__ import annotations

import hashlib
import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np

from gen.grid import LatLonGrid
from gen.writers import raster, staged
from gen.writers.geotiff import GeoTiffContainer
from gen.writers.raster import RasterSpec, RasterWriter, band_rows
from gen.writers.raster_store import RasterNetCDF, RasterZarr

SUFFIXES = {"netcdf": ".nc", "zarr": ".zarr", "geotiff": ".tif"}
CONTAINERS: dict[str, Any] = {"netcdf": RasterNetCDF, "zarr": RasterZarr, "geotiff": GeoTiffContainer}
KILL_POINTS = (
    "in_skeleton", "in_unit", "after_note", "after_commit", "in_append", "before_notes", "before_finish",
    "before_rename", "after_rename", "in_index",
)  # fmt: skip
COARSE = LatLonGrid(40.15 + 0.4 * np.arange(66), 5.15 + 0.4 * np.arange(3))


def make_spec(created: str = "2024-05-02") -> RasterSpec:
    """Two members of two times on 264 x 12 pixels: two bands of rows; the coarse input with its index."""
    ends = np.datetime64("2024-05-01T06", "m") + np.arange(2) * np.timedelta64(60, "m")
    return RasterSpec(
        LatLonGrid(40 + 0.1 * np.arange(264), 5 + 0.1 * np.arange(12)),
        2,
        ends,
        1.0,
        {"created": created, "seed": "3"},
        (0, 0),
        COARSE,
        1,
        lambda time, member: np.full(COARSE.shape, time + 0.5, np.float32),
        lambda rates: (rates * 0.8).astype(np.float32),
    )


def digest(path: Path) -> str:
    """Hash a file, or the names and contents of a folder."""
    files = sorted(f for f in path.rglob("*") if f.is_file()) if path.is_dir() else [path]
    whole = hashlib.sha256()
    for file in files:
        whole.update(str(file.relative_to(path)).encode() + file.read_bytes())
    return whole.hexdigest()


def units(spec: RasterSpec) -> list[tuple[int, slice]]:
    """Bands of single members in the order in which they are drawn: all bands of a member, then the next."""
    times, members, bands = range(spec.times.size), range(spec.members), range(spec.bands)
    return [(t * spec.bands + b, slice(m, m + 1)) for t in times for m in members for b in bands]


def write(
    writer: RasterWriter,
    chosen: list[tuple[int, slice]],
    format: str,
    killed_before: tuple[int, int] | None = None,
) -> None:
    """Write bands with their notes; values are those of the whole fields. Die before a band is committed."""
    spec = writer.spec
    values = np.random.default_rng(5).exponential(1.0, (2, 2, *spec.grid.shape)).astype(np.float32)
    for number, members in chosen:
        time, band = divmod(number, spec.bands)
        first, stop = band_rows(spec.grid.shape[0], band, format)
        writer.write(number, members, values[time, members, None, None, first:stop])
        writer.note(number, members, {"largest": number + 0.1 * members.start})
        if (number, members.start) == killed_before:
            writer._queue.put(kill)
        writer.commit(number, members)


def kill() -> None:
    """End this process at once, as the kernel does when memory runs out."""
    os.kill(os.getpid(), signal.SIGKILL)


def _kill_at(point: str, container: Any) -> None:
    real = container.append

    def torn_append(self: Any, unit: Any) -> None:
        real(self, unit)
        if unit.key[:2] == (2, 0):
            kill()

    if point == "in_append":
        container.append = torn_append
    if point == "in_skeleton":
        raster.global_attributes = lambda *given: kill()
        for module in ("gen.writers.raster_store", "gen.writers.geotiff"):
            sys.modules[module].global_attributes = raster.global_attributes  # type: ignore[attr-defined]
    if point == "before_notes":
        container.annotate = lambda self, attrs: kill()
    if point == "before_finish":
        container.finish = lambda self: kill()
    if point == "before_rename":
        staged.StagedWriter._raise = lambda self: None  # type: ignore[method-assign]
        Path.rename = lambda self, target: kill()  # type: ignore[method-assign,assignment,return-value]
    if point == "after_rename":
        staged.sync = lambda folder: kill()
    if point == "in_index":
        RasterWriter._write_index = lambda self: kill()  # type: ignore[method-assign]


def run_killed(folder: Path, format: Any, point: str) -> None:
    """Write with a kill at `point`."""
    spec = make_spec()
    _kill_at(point, CONTAINERS[format])
    path = folder / f"{point}{SUFFIXES[format]}"
    writer = RasterWriter(path, spec, format, "request")
    chosen = units(spec)
    write(writer, chosen[:5], format, (1, 1) if point == "after_note" else None)
    writer.wait(chosen[:5])
    if point == "in_unit":
        writer.write(2, slice(1, 2), np.zeros((1, 1, 1, 256 if format != "geotiff" else 8, 12), np.float32))
        writer._queue.put(kill)
    if point == "after_commit":
        kill()
    write(writer, chosen[5:], format)
    writer.close()


def stage_other_ranks(path: Path) -> None:
    """Stage every second unit in a process that does not assemble."""
    spec = make_spec()
    format = next(f for f, suffix in SUFFIXES.items() if path.suffix == suffix)
    with RasterWriter(path, spec, format, "request", assemble=False) as writer:  # type: ignore[arg-type]
        write(writer, units(spec)[1::2], format)


def main() -> None:
    """Run the kill points, each in a child of its own, or a second rank."""
    folder, format = Path(sys.argv[1]), sys.argv[2]
    if format == "rank":
        return stage_other_ranks(folder)
    for point in KILL_POINTS:
        if point == "in_index" and format != "geotiff":
            continue
        child = os.fork()
        if child == 0:
            try:
                run_killed(folder, format, point)
            finally:
                os._exit(1)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            raise SystemExit(f"{point}: the process was not killed")


if __name__ == "__main__":
    main()
