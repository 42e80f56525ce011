"""Files of fine rain: GeoTIFF byte by byte, map planes, overviews, notes."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from gen.grid import LatLonGrid
from gen.projected_grid import ProjectedGrid
from gen.writers.geotiff import decoded, encoded
from gen.writers.raster import BAND, RasterSpec, RasterWriter, band_rows

CRS = "+proj=stere +lat_0=90 +lat_ts=60 +lon_0=10 +R=6370040"


def spec_of(grid: Any, members: int = 2, times: int = 1) -> RasterSpec:
    ends = np.datetime64("2024-05-01T06", "m") + np.arange(times) * np.timedelta64(60, "m")
    return RasterSpec(grid, members, ends, 1.0, {"created": "2024-05-02", "seed": "3"}, (0,) * members)


def fields_of(spec: RasterSpec) -> np.ndarray:
    """Values [times, members, rows, columns], rain on half of the pixels, some missing."""
    random = np.random.default_rng(2)
    shape = (spec.times.size, spec.members, *spec.grid.shape)
    values = np.where(random.random(shape) < 0.5, 0, np.exp(random.normal(size=shape))).astype(np.float32)
    values[..., 5, 7:9] = np.nan
    return values


def write(path: Path, spec: RasterSpec, format: Any, values: np.ndarray, **options: Any) -> None:
    with RasterWriter(path, spec, format, "f", **options) as writer:
        for number in spec.inits:
            time, band = divmod(int(number), spec.bands)
            first, stop = band_rows(spec.grid.shape[0], band, format)
            writer.write(number, slice(0, spec.members), values[time, :, None, None, first:stop])
            writer.note(number, slice(0, spec.members), {"largest": float(number)})
            writer.commit(number, slice(0, spec.members))


@pytest.mark.parametrize("format", ["netcdf", "geotiff"])
def test_bands_cover_every_row_once(format: str) -> None:
    """Bands follow each other from the south; in GeoTIFF the short one is the first, since tiles start in the north."""
    for height in (1, 255, 256, 257, 700):
        spans = [band_rows(height, band, format) for band in range(-(-height // BAND))]
        assert spans[0][0] == 0 and spans[-1][1] == height
        assert all(a[1] == b[0] for a, b in zip(spans, spans[1:], strict=False))


def test_the_predictor_is_undone() -> None:
    """Decoding returns every bit, missing values and negative zero included."""
    tile = np.random.default_rng(0).normal(size=(BAND, BAND)).astype(np.float32)
    tile[3, 4], tile[5, 6] = np.nan, -0.0
    assert decoded(encoded(tile)).tobytes() == tile.tobytes()


@pytest.mark.parametrize("compress", ["fast", "small", "none"])
@pytest.mark.parametrize("format", ["netcdf", "zarr"])
def test_what_is_written_is_read(tmp_path: Path, format: str, compress: Any) -> None:
    """Odd sizes, two times, bands and chunks at the rim; rounding keeps 0.1 %; the largest note is an attribute."""
    spec = spec_of(LatLonGrid(40 + 0.1 * np.arange(301), 5 + 0.1 * np.arange(270)), times=2)
    values = fields_of(spec)
    path = tmp_path / f"f.{format}"
    write(path, spec, format, values, compress=compress)
    opened = xr.open_zarr(path) if format == "zarr" else xr.open_dataset(path)
    with opened as file:
        got = file["precipitation"].transpose("time", "realization", ...).values
        assert file.attrs["largest"] == "3" and file.attrs["Conventions"] == "CF-1.11"
    np.testing.assert_allclose(got, values, rtol=1e-3 if compress == "small" else 0)


def test_a_map_plane_carries_its_mapping_and_positions(tmp_path: Path) -> None:
    """The NetCDF file opens as rain on the same plane; latitudes are those of the projection."""
    from downscaling.sources.opening import open_precipitation

    grid = ProjectedGrid.even(-50_000.0, -4_000_000.0, 1000.0, (40, 60), CRS)
    spec, path = spec_of(grid), tmp_path / "f.nc"
    write(path, spec, "netcdf", fields_of(spec))
    source = open_precipitation(path)
    np.testing.assert_allclose(source.grid.x, grid.x)  # type: ignore[union-attr]
    np.testing.assert_array_equal(source.read(0, 1), fields_of(spec)[0, 1])
    with xr.open_dataset(path) as file:
        np.testing.assert_allclose(file["latitude"].values, grid.latlon()[0], rtol=0, atol=1e-12)
        assert file["crs"].attrs["grid_mapping_name"] == "polar_stereographic"


def test_a_map_plane_complies_with_cf(tmp_path: Path) -> None:
    """compliance-checker, CF 1.11, strict, finds nothing with the coarse input and its index on the same plane."""
    checker = Path(sys.executable).with_name("compliance-checker")
    if not checker.exists():
        pytest.skip("needs pip install 'gen-earth[eval]'")
    grid = ProjectedGrid.even(-50_000.0, -4_000_000.0, 1000.0, (40, 60), CRS)
    wide = grid.coarsen(4)
    given = np.ones(wide.shape, np.float32)
    spec = replace(spec_of(grid), coarse_grid=wide, coarse=lambda time, member: given, index=lambda x: 0 * x)
    write(tmp_path / "f.nc", spec, "netcdf", fields_of(spec))
    command = [str(checker), "--test=cf:1.11", "--criteria=strict", str(tmp_path / "f.nc")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "All tests passed!" in done.stdout, done.stdout


def test_a_geotiff_is_read_by_the_own_reader(tmp_path: Path) -> None:
    """One band of 300 x 270 pixels: grid to 1e-9 degrees, a known pixel, every value, units from the metadata."""
    from downscaling.sources.geotiff import open_geotiff

    grid = LatLonGrid(40 + 0.1 * np.arange(300), 5 + 0.1 * np.arange(270))
    spec, path = spec_of(grid, members=1), tmp_path / "f_202405010600.tif"
    values = fields_of(spec)
    values[0, 0, 17, 33] = 12.5
    write(path, spec, "geotiff", values)
    rain = open_geotiff(path, units="mm/h")
    np.testing.assert_allclose(rain.grid.latitude, grid.latitude, rtol=0, atol=1e-9)  # type: ignore[union-attr]
    np.testing.assert_allclose(rain.grid.longitude, grid.longitude, rtol=0, atol=1e-9)  # type: ignore[union-attr]
    assert rain.read(0)[17, 33] == 12.5
    np.testing.assert_array_equal(rain.read(0), values[0, 0])


READER = """
import sys, numpy as np, rasterio
with rasterio.open(sys.argv[1]) as file:
    print(*file.transform[:6], file.crs.to_proj4(), file.overviews(1), file.nodata, file.units[0], sep="|")
    np.save(sys.argv[2], file.read())
    np.save(sys.argv[3], file.read(1, out_shape=(file.height // 2, file.width // 2)))
"""


@pytest.mark.parametrize("plane", [True, False])
def test_a_geotiff_is_read_by_gdal(tmp_path: Path, plane: bool) -> None:
    """Bits, transform to 1e-9, projection and overviews, in a process of its own (two PROJ libraries cannot share one).

    Another interpreter with rasterio may be named by the variable GEN_RASTERIO_PYTHON.
    """
    python = os.environ.get("GEN_RASTERIO_PYTHON", sys.executable)
    if subprocess.run([python, "-c", "import rasterio"], capture_output=True, check=False).returncode:
        pytest.skip("needs rasterio (pip install 'gen-earth[geo]')")
    grid: Any = LatLonGrid(-10 + 0.1 * np.arange(600), 5 + 0.1 * np.arange(530))
    if plane:
        grid = ProjectedGrid.even(-50_000.0, -4_000_000.0, 1000.0, (600, 530), CRS)
    spec, path = spec_of(grid, members=2, times=2), tmp_path / "f.tif"
    values = fields_of(spec)
    write(path, spec, "geotiff", values)
    files = [tmp_path / "all.npy", tmp_path / "half.npy"]
    done = subprocess.run([python, "-c", READER, path, *files], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    *numbers, projection, overviews, nodata, units = done.stdout.strip().split("|")
    y, x, step = (grid.y, grid.x, 1000.0) if plane else (grid.latitude, grid.longitude, 0.1)
    wanted = [step, 0, x[0] - step / 2, 0, -step, y[-1] + step / 2]
    np.testing.assert_allclose([float(n) for n in numbers], wanted, rtol=1e-9, atol=1e-9)
    assert ("stere" if plane else "longlat") in projection and (nodata, units) == ("nan", "mm/h")
    assert "lat_ts=60" in projection or not plane
    assert overviews == "[2, 4]"
    np.testing.assert_array_equal(np.load(files[0]), values.reshape(4, 600, 530)[:, ::-1])
    north = values[0, 0, ::-1].astype(np.float64).reshape(300, 2, 265, 2)
    known = np.isfinite(north).sum((1, 3))
    np.testing.assert_allclose(np.load(files[1]), np.nansum(north, (1, 3)) / known, rtol=1e-5)


def test_a_finished_geotiff_is_known_again(tmp_path: Path) -> None:
    """A repeated run with --resume finds the file complete and leaves it alone."""
    spec, path = spec_of(LatLonGrid(40 + 0.1 * np.arange(30), 5 + 0.1 * np.arange(27))), tmp_path / "f.tif"
    write(path, spec, "geotiff", fields_of(spec))
    before = path.stat().st_mtime_ns
    with RasterWriter(path, spec, "geotiff", "f", resume=True) as writer:
        assert writer.complete and writer.has(0, slice(0, 2))
    assert path.stat().st_mtime_ns == before
