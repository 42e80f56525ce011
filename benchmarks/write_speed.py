"""Time the writers on a forecast of 8 members x 40 lead times x 31 channels x 48 x 96 (183 MB).

Reports, for every format and compression, seconds from the first value to the finished file, MB/s of float32 values,
bytes on disk, and as the error of reference the largest deviation of the file's values from those written, as a
fraction of the standard deviation of a channel. Values are random fields with a k^-3 power spectrum, the redness of
weather, so that compression is not flattered.

    python benchmarks/write_speed.py [--folder FOLDER]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from gen.data.variables import make_channels
from gen.grid import LatLonGrid
from gen.writers.spec import FileSpec
from gen.writers.staged import Format, StagedWriter

UPPER = ["geopotential", "temperature", "u_component_of_wind", "v_component_of_wind", "specific_humidity"]
SURFACE = [
    "2m_temperature",
    "10m_u_component_of_wind",
    "10m_v_component_of_wind",
    "mean_sea_level_pressure",
    "surface_pressure",
    "total_precipitation_6hr",
]
SCALE = {  # mean and standard deviation by short name
    "z": (55000, 1500),
    "t": (270, 15),
    "q": (0.005, 0.003),
    "2t": (285, 12),
    "msl": (101300, 900),
    "sp": (97000, 900),
    "tp06": (0.001, 0.002),
}


def red_fields(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Return unit-variance random fields with a k^-3 power spectrum, float32 [..., rows, columns]."""
    rows, columns = shape[-2:]
    waves = np.hypot(np.fft.fftfreq(rows)[:, None] * rows, np.arange(columns // 2 + 1)) + 1
    noise = rng.standard_normal((*shape[:-1], columns // 2 + 1, 2)) @ [1, 1j]
    fields = np.fft.irfft2(noise * waves**-2, s=(rows, columns))
    return (fields / fields.std()).astype(np.float32)


def main() -> None:
    """Print one line per format and compression."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=None)
    folder = parser.parse_args().folder
    channels = make_channels(UPPER + SURFACE, [250, 500, 700, 850, 925])
    spec = FileSpec(
        channels,
        LatLonGrid.gaussian(48, 96),
        members=8,
        inits=np.array(["2024-01-01"], "datetime64[h]"),
        leads=np.arange(6, 241, 6).astype("timedelta64[h]"),
    )
    values = red_fields((8, 40, *spec.value_shape), np.random.default_rng(0))
    for i, channel in enumerate(channels):
        mean, deviation = SCALE.get(channel.variable.short, (0, 8))
        values[:, :, i] = values[:, :, i] * np.float32(deviation) + np.float32(mean)
    with tempfile.TemporaryDirectory(dir=folder) as made:
        for format in ("netcdf", "zarr"):
            for compress in ("fast", "small", "none"):
                report(Path(made), spec, values, format, compress)


def report(folder: Path, spec: FileSpec, values: np.ndarray, format: Format, compress: str) -> None:
    """Write the values, read them back and print time, size and error."""
    import xarray as xr

    path, start = folder / f"{format}_{compress}", time.perf_counter()
    with StagedWriter(path, spec, format, compress=compress) as writer:
        for first in range(0, 40, 4):
            writer.write(0, slice(0, 8), values[:, first : first + 4], slice(first, first + 4))
        writer.commit(0, slice(0, 8))
    seconds = time.perf_counter() - start
    size = sum(f.stat().st_size for f in path.rglob("*") if f.is_file()) if path.is_dir() else path.stat().st_size
    with xr.open_dataset(path, engine="zarr" if format == "zarr" else "h5netcdf") as data:
        stored = data["geopotential"].values[:, 0]
    error = np.abs(stored - values[:, :, : stored.shape[2]]).max() / values[:, :, : stored.shape[2]].std()
    speed, ratio = spec.nbytes / seconds / 1e6, spec.nbytes / size
    label = f"{format:7} {compress:6}"
    print(f"{label} {seconds:5.2f} s {speed:4.0f} MB/s {size / 1e6:5.0f} MB 1:{ratio:.2f} error {error:.1e}")


if __name__ == "__main__":
    main()
