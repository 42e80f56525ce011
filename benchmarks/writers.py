"""Time the writers: MB/s of float32 values, bytes on disk and error, for every format and compression.

The clock runs from the first value to the finished file, flushed to the disk. The reference error is that of the round
trip: the largest deviation of what xarray reads from what was written, as a fraction of the channel's standard
deviation, the largest of all channels. Values are random fields with a k^-3 power spectrum, the redness of weather, so
that compression is not flattered, with the channels, grid, means and deviations of the model's codec.

    python benchmarks/writers.py [--model demo] [--quick] [--members 8] [--leads 40] [--folder FOLDER]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any, get_args

import numpy as np
from reporting import parser, print_header, print_table

from gen.data.normalize import Normalizer
from gen.grid import LatLonGrid
from gen.writers.packing import COMPRESSIONS
from gen.writers.spec import FileSpec, LayoutName
from gen.writers.staged import StagedWriter

LEADS_PER_WRITE = 2


def main() -> None:
    """Print one line per format and compression, then one per layout."""
    made = parser(__doc__)
    made.add_argument("--members", type=int, default=8)
    made.add_argument("--leads", type=int, default=40)
    made.add_argument("--folder", type=Path, help="where the files are written (default: the temporary folder)")
    options = made.parse_args()
    if options.quick:
        options.members, options.leads = 2, 10
    spec, values = ensemble(options)
    size = f"{options.members} members x {options.leads} lead times x {spec.value_shape}, {spec.nbytes / 1e6:.0f} MB"
    print_header(options, values=size)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        print("Formats and compressions, layout weatherbench\n")
        measure(Path(folder), spec, values, "netcdf", "none")  # imports and first touches are not timed
        cases = [(format, compress) for format in ("netcdf", "zarr") for compress in COMPRESSIONS]
        print_table([measure(Path(folder), spec, values, *case) for case in cases])
        print("Layouts, NetCDF, fast compression\n")
        names: tuple[Any, ...] = get_args(LayoutName)
        print_table([measure(Path(folder), relaid(spec, name), values, "netcdf", "fast") for name in names])


def ensemble(options: argparse.Namespace) -> tuple[FileSpec, np.ndarray]:
    """Return what is written: a file of the model's channels and red noise of their size."""
    from gen.hub import open_model, resolve

    codec = open_model(resolve(options.model)).document("codec")
    normalizer = Normalizer.from_dict(codec["normalizer"])
    grid = LatLonGrid.from_dict(codec["grid"])
    leads = 6 * np.arange(1, options.leads + 1).astype("timedelta64[h]")
    inits = np.array(["2024-01-01"], "datetime64[h]")
    spec = FileSpec(tuple(normalizer.channels), grid, options.members, inits, leads)
    values = red_fields((options.members, options.leads, *spec.value_shape), np.random.default_rng(0))
    mean, deviation = (np.asarray(x, np.float32)[:, None, None] for x in (normalizer.mean, normalizer.std))
    return spec, values * deviation + mean


def red_fields(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Return unit-variance random fields with a k^-3 power spectrum, float32 [..., rows, columns]."""
    rows, columns = shape[-2:]
    waves = np.hypot(np.fft.fftfreq(rows)[:, None] * rows, np.arange(columns // 2 + 1)) + 1
    noise = rng.standard_normal((*shape[:-1], columns // 2 + 1, 2)) @ [1, 1j]
    fields = np.fft.irfft2(noise * waves**-2, s=(rows, columns))
    return (fields / fields.std()).astype(np.float32)


def relaid(spec: FileSpec, layout: LayoutName) -> FileSpec:
    """Return the same file in another layout."""
    import dataclasses

    return dataclasses.replace(spec, layout=layout)


def measure(folder: Path, spec: FileSpec, values: np.ndarray, format: Any, compress: Any) -> dict[str, object]:
    """Write the values, read them back and return one row of the table."""
    path, whole = folder / f"{spec.layout}_{format}_{compress}", slice(0, spec.members)
    wall, busy = time.perf_counter(), time.process_time()
    with StagedWriter(path, spec, format, compress=compress) as writer:
        for first in range(0, len(spec.leads), LEADS_PER_WRITE):
            leads = slice(first, min(first + LEADS_PER_WRITE, len(spec.leads)))
            writer.write(0, whole, values[:, leads], leads)
        writer.commit(0, whole)
    seconds, work = time.perf_counter() - wall, time.process_time() - busy
    size = sum(f.stat().st_size for f in path.rglob("*") if f.is_file()) if path.is_dir() else path.stat().st_size
    return {
        "layout": spec.layout,
        "format": format,
        "compression": compress,
        "seconds": seconds,
        "processor seconds": work,
        "MB/s": spec.nbytes / 1e6 / seconds,
        "on disk MB": size / 1e6,
        "ratio": spec.nbytes / size,
        "error": error(path, spec, values),
    }


def error(path: Path, spec: FileSpec, values: np.ndarray) -> float:
    """Return the largest deviation of the stored values, in standard deviations of their channel."""
    from gen.metrics.stores import ForecastStore

    store, worst = ForecastStore(path), 0.0
    for i, channel in enumerate(spec.channels):
        there = store.read(spec.inits[0], spec.leads, channel).numpy()
        worst = max(worst, float(np.abs(there - values[:, :, i]).max() / values[:, :, i].std()))
    return worst


if __name__ == "__main__":
    main()
