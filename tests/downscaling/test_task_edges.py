"""The edges of what may be asked, through the command: odd sizes, dry, missing, date line; the index in all formats."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from downscaling.overlap import Overlap
from downscaling.sources.geotiff import open_geotiff
from gen.cli import main
from gen.grid import LatLonGrid

Rain = Callable[..., np.ndarray]


def write(path: Path, values: np.ndarray, south: float = 45.0, west: float = 7.0) -> Path:
    """Write rates on cells of 0.25 degrees."""
    axes = {
        "time": [np.datetime64("2024-01-01T06", "ns")],
        "latitude": south + 0.25 * np.arange(values.shape[0]),
        "longitude": west + 0.25 * np.arange(values.shape[1]),
    }
    xr.Dataset({"pr": (tuple(axes), values[None].astype("f4"), {"units": "mm/h"})}, axes).to_netcdf(path)
    return path


def command(model: Path, source: Path, out: Path, *more: str) -> list[str]:
    asked = ["--members", "2", "--interval", "1", "--device", "cpu", "--no-plot", *more]
    return ["sample", "--task", "downscaling", "--model", str(model), "--input", str(source), "--out", str(out), *asked]


def fields(kind: str, rain: Rain) -> np.ndarray:
    values = rain(*{"rectangle": (9, 23), "odd": (13, 7)}.get(kind, (10, 12)))
    if kind == "missing":
        values[2:4, 5] = np.nan
    if kind == "nothing known":
        values[:] = np.nan
    if kind in ("dry", "one wet pixel"):
        values[:] = 0
    if kind == "one wet pixel":
        values[4, 6] = 3.0
    return values


@pytest.mark.parametrize(
    ("kind", "factor", "west"),
    [
        ("rectangle", "2.5", 7.0), ("odd", "3", 7.0), ("dry", "4", 7.0), ("one wet pixel", "4", 7.0),
        ("missing", "2.5", 7.0), ("nothing known", "4", 7.0), ("date line", "4", 179.125), ("date line", "4", -180.875),
        ("a factor of one", "1", 7.0),
    ],
)  # fmt: skip
def test_a_file_for_every_field(
    kind: str, factor: str, west: float, model_folder: Path, tmp_path: Path, rain: Rain
) -> None:
    """Amounts are kept to 1e-6 of the largest, dry cells dry, missing ones missing, on any size and meridian."""
    coarse = fields(kind, rain)
    source, out = write(tmp_path / "in.nc", coarse, west=west), tmp_path / "fine.nc"
    assert main([*command(model_folder, source, out, "--factor", factor), "--quiet"]) == 0
    with xr.open_dataset(out) as file:
        values, given = file["precipitation"].values[:, 0], file["coarse_precipitation"].values[0, 0]
        axes = [file[n].values for n in ("coarse_latitude", "coarse_longitude", "latitude", "longitude")]
        np.testing.assert_array_equal(np.isnan(file["ood_index"].values[0, 0]), np.isnan(given))
    np.testing.assert_array_equal(given, coarse)
    assert np.isnan(values).any() == np.isnan(coarse).any() and not (values < 0).any()
    lap = Overlap.between(LatLonGrid(*axes[:2]), LatLonGrid(*axes[2:]), np.isfinite(values[0]))
    known = np.isfinite(coarse) & lap.active
    assert np.abs(lap.apply(values) - coarse)[:, known].max(initial=0) <= 1e-6 * np.nanmax(coarse, initial=0)
    assert not np.nan_to_num(values[:, lap.touched_by(coarse == 0)]).any()


def test_a_pole_is_refused_in_one_line(
    model_folder: Path, tmp_path: Path, rain: Rain, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is written."""
    source, out = write(tmp_path / "in.nc", rain(30, 12), south=80.0), tmp_path / "fine.nc"
    assert main([*command(model_folder, source, out), "--quiet"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and "at a pole" in lines[0] and "--region S,N,W,E" in lines[0] and not out.exists()


def test_the_index_is_told_at_the_end_and_lies_beside_a_geotiff(
    model_folder: Path, tmp_path: Path, rain: Rain, capsys: pytest.CaptureFixture[str]
) -> None:
    """A region named as the RainShift one is the row of the table; the map of the index is that of NetCDF."""
    source = write(tmp_path / "in.nc", 30 * rain(90, 90), south=39.0, west=-6.0)
    box = ["--region", "Europe-West", "--factor", "1", "--conserve", "none"]
    for name in ("fine.nc", "fine.tif"):
        assert main(command(model_folder, source, tmp_path / name, *box)) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[1].split()[0] == "ood_index" and lines[2].split()[0] == "europe_west"
    with xr.open_dataset(tmp_path / "fine.nc") as file:
        index, attrs = file["ood_index"].values[0, 0], file.attrs
    assert attrs["ood_index_of_regions"].startswith("europe_west: mean")
    beside = open_geotiff(
        tmp_path / "fine_ood_index.tif", units="mm/h", interval_hours=1.0, time=np.datetime64("2024-01-01T06")
    )
    np.testing.assert_allclose(beside.read(0), index, rtol=0, atol=1e-6)


def test_a_global_field_goes_round(model_folder: Path, tmp_path: Path, rain: Rain) -> None:
    """Cells of three degrees around the globe: every one in the file once, and longitudes of a whole circle."""
    coarse = rain(60, 120)
    axes = {
        "time": [np.datetime64("2024-01-01T06", "ns")],
        "latitude": np.arange(-88.5, 90, 3),
        "longitude": np.arange(1.5, 360, 3),
    }
    source, out = tmp_path / "in.nc", tmp_path / "fine.nc"
    xr.Dataset({"pr": (tuple(axes), coarse[None], {"units": "mm/h"})}, axes).to_netcdf(source)
    assert main([*command(model_folder, source, out, "--factor", "1.5", "--region", "-12,12,-180,180"), "--quiet"]) == 0
    with xr.open_dataset(out) as file:
        assert file["precipitation"].shape == (2, 1, 12, 180) and np.allclose(np.diff(file.longitude), 2.0)
        np.testing.assert_array_equal(file["coarse_precipitation"].values[0, 0], np.roll(coarse[26:34], 60, axis=1))
        assert float(file.attrs["conservation_largest_violation_mm_per_h"]) <= 1e-6 * coarse.max()
