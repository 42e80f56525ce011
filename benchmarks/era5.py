"""Time reading training data: states/s and MB/s per worker from a local store of 84 channels on 121 x 240.

The store is written to a temporary folder, as the public ones lie (one time per chunk unless --chunk says otherwise),
with red noise (k^-3 power) of weather's size in place of weather, so that compression is not flattered; the page cache
is warm, so that the numbers are those of decompression, transposition and assembly, not of the disk. Layouts:
`era5`: what `gen data era5` writes, (time, level, latitude, longitude), six-hourly rain stored;
`wb2`: the WeatherBench-2 order (time, level, longitude, latitude), rain summed from hourly totals while reading.
Readings: `windows`: five states six hours apart from a random start, as the dynamics are trained; `states`: single
random states; `sequence`: eight neighbouring times, as latents are encoded. The reference error is the largest
difference from what xarray reads. With --source only an own store is read, nothing is written.

    python benchmarks/era5.py [--quick] [--times 60] [--workers 1,2] [--chunk 1] [--source STORE]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from reporting import integers, parser, print_header, print_table
from writers import red_fields

from gen.data.era5 import GRID
from gen.data.reader import StoreReader
from gen.data.variables import LADCAST_CHANNELS, Channel

FRAMES, STEP_HOURS, SEQUENCE = 5, 6, 8


def main() -> None:
    """Print one line per layout, reading and number of workers."""
    made = parser(__doc__)
    made.add_argument("--times", type=int, default=60, help="hourly times in the store (10 MB each)")
    made.add_argument("--workers", type=integers, default=[1, 2], help="processes that read at the same time")
    made.add_argument("--chunk", type=int, default=1, help="times in a chunk")
    made.add_argument("--reads", type=int, default=30, help="readings per worker")
    made.add_argument("--source", type=Path, help="read this store instead")
    options = made.parse_args()
    if options.quick:
        options.times, options.reads = 40, 8
    state_mb = len(LADCAST_CHANNELS) * GRID.shape[0] * GRID.shape[1] * 4 / 1e6
    print_header(
        options, state=f"84 x 121 x 240 float32, {state_mb:.2f} MB", chunk=f"{options.chunk} time(s), all levels"
    )
    if options.source:
        print_table([row for workers in options.workers for row in rows(options.source, "given", workers, options)])
        return
    with tempfile.TemporaryDirectory() as folder:
        table = []
        for layout in ("era5", "wb2"):
            store = Path(folder) / f"{layout}.zarr"
            write_store(store, layout, options.times, options.chunk)
            table += [row for workers in options.workers for row in rows(store, layout, workers, options)]
        print_table(table)


def write_store(path: Path, layout: str, times: int, chunk: int) -> None:
    """Write a full-size store of red noise; eight different states are repeated, which no reader can profit from."""
    import zarr
    from zarr.codecs import BloscCodec

    rng, group = np.random.default_rng(0), zarr.open_group(path, mode="w")
    lonlat = layout == "wb2"
    for name, values in (("latitude", GRID.latitude), ("longitude", GRID.longitude)):
        axis(group, name, values, {"units": f"degrees_{'north' if name == 'latitude' else 'east'}"})
    axis(group, "level", np.array(sorted({c.level for c in LADCAST_CHANNELS if c.level})), {"units": "hPa"})
    first = int(np.datetime64("2020-01-01T00", "h").astype(int))
    axis(
        group, "time", first + np.arange(times), {"units": "hours since 1970-01-01", "calendar": "proleptic_gregorian"}
    )
    for name in dict.fromkeys(c.name for c in LADCAST_CHANNELS):
        channels = [c for c in LADCAST_CHANNELS if c.name == name]
        levels = () if channels[0].level is None else (len(channels),)
        base = (red_fields((8, *levels, *GRID.shape), rng) * 10 + 250).astype(np.float32)
        hourly = lonlat and name == "total_precipitation_6hr"
        base = np.maximum(base - 255, 0) * 1e-4 if hourly else base
        base = np.ascontiguousarray(base.swapaxes(-1, -2)) if lonlat else base
        dims = [
            "time",
            *(["level"] if levels else []),
            *(["longitude", "latitude"] if lonlat else ["latitude", "longitude"]),
        ]
        array = group.create_array(
            "total_precipitation" if hourly else name,
            shape=(times, *base.shape[1:]),
            chunks=(chunk, *base.shape[1:]),
            dtype="float32",
            dimension_names=dims,
            compressors=BloscCodec(cname="lz4", clevel=5, shuffle="shuffle"),
        )
        array.attrs["units"] = channels[0].variable.units
        for start in range(0, times, 8):
            array[start : start + 8] = base[: min(8, times - start)]


def axis(group: Any, name: str, values: np.ndarray, attributes: dict[str, str]) -> None:
    array = group.create_array(name, shape=values.shape, dtype=values.dtype, dimension_names=[name])
    array[:] = values
    array.attrs.update(attributes)


def rows(store: Path, layout: str, workers: int, options: argparse.Namespace) -> list[dict[str, object]]:
    """Return one row per way of reading."""
    worst, files = error(store), [f for f in store.rglob("*") if f.is_file()]
    count = len(StoreReader(store, [c for c in LADCAST_CHANNELS if c.code == "2t"]).hours)
    return [
        {
            "layout": layout,
            "disk MB/state": sum(f.stat().st_size for f in files) / count / 1e6,
            "reading": kind,
            "workers": workers,
            **measure(store, kind, workers, options),
            "error": worst,
        }
        for kind in ("windows", "states", "sequence")
    ]


def measure(store: Path, kind: str, workers: int, options: argparse.Namespace) -> dict[str, object]:
    """Let processes read at the same time; the clock runs from the first reading to the last."""
    import multiprocessing

    context = multiprocessing.get_context("spawn")
    gate = context.Barrier(workers)
    with context.Pool(workers, initializer=enter, initargs=(gate,)) as pool:
        jobs = [(str(store), kind, options.reads, seed) for seed in range(workers)]
        found = pool.map(work, jobs, chunksize=1)
        pool.close()
        pool.join()
    states = sum(f["states"] for f in found)
    wall = max(f["stop"] for f in found) - min(f["start"] for f in found)
    busy = sum(f["busy"] for f in found)
    megabytes = states * len(LADCAST_CHANNELS) * GRID.shape[0] * GRID.shape[1] * 4 / 1e6
    return {
        "states/s": states / wall,
        "states/s/worker": states / wall / workers,
        "MB/s": megabytes / wall,
        "processor ms/state": 1e3 * busy / states,
    }


GATE: Any = None


def enter(gate: Any) -> None:
    """Keep the barrier at which the workers wait for each other."""
    global GATE
    GATE = gate


def work(job: tuple[str, str, int, int]) -> dict[str, float]:
    """Read in one process."""
    store, kind, reads, seed = job
    reader, rng = StoreReader(store, LADCAST_CHANNELS), np.random.default_rng(seed)
    reader.read(slice(0, 1))  # imports and first touches are not timed
    GATE.wait()
    start, busy, states = time.time(), time.process_time(), 0
    for _ in range(reads):
        states += sum(len(reader.read(where)) for where in choose(kind, len(reader.hours), rng))
    return {"start": start, "stop": time.time(), "busy": time.process_time() - busy, "states": states}


def choose(kind: str, count: int, rng: np.random.Generator) -> list[slice]:
    """Return the slices of one reading."""
    if kind == "windows":
        first = int(rng.integers(0, count - STEP_HOURS * (FRAMES - 1)))
        return [slice(first, first + STEP_HOURS * (FRAMES - 1) + 1, STEP_HOURS)]
    length = 1 if kind == "states" else SEQUENCE
    first = int(rng.integers(0, count - length + 1))
    return [slice(first, first + length)]


def error(store: Path) -> float:
    """Return the largest difference from what xarray reads at one time, by channels that are stored as such."""
    import xarray as xr

    reader = StoreReader(store, LADCAST_CHANNELS)
    state = reader.read(slice(3, 4))[0].numpy()
    with xr.open_zarr(store, chunks=None, consolidated=False) as ds:
        now = ds.sel(time=np.datetime64(int(reader.hours[3]), "h"))
        return max(
            float(np.abs(state[i] - plain(now, c)).max()) for i, c in enumerate(LADCAST_CHANNELS) if c.name in now
        )


def plain(state: Any, channel: Channel) -> np.ndarray:
    values = state[channel.name] if channel.level is None else state[channel.name].sel(level=channel.level)
    return np.asarray(values.transpose("latitude", "longitude").values)


if __name__ == "__main__":
    main()
