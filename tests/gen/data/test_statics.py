"""The five static fields: the published figures, the right way up, from every file that holds them, nothing unsafe."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

from gen.data.sources import SourceError
from gen.data.statics import STATIC_NAMES, load_static, normalise_static
from gen.fields import Field
from gen.grid import LatLonGrid

GRID = LatLonGrid.equiangular(121, 240, poles=True)
MEAN = (0.331487, 20.45622, 0.521783, 0.160468, 0.00346316)
STD = (0.448312, 52.43335, 0.421428, 0.233940, 0.00882984)
LAND, MOUNTAINS = "240x121_land_sea_mask.pt", "240x121_orography.pt"


@pytest.fixture(scope="module")
def published(shared: Path) -> Field:
    return load_static(shared / "data" / "static", GRID)


@pytest.fixture()
def tensors(tmp_path: Path) -> Path:
    """Return a folder with the two tensor files, filled with a land-sea mask and mountains of our own."""
    rows = torch.linspace(1, 0, 121)[:, None].expand(121, 240)
    torch.save(rows.clone(), tmp_path / LAND)
    torch.save(torch.stack([300 * rows, rows, rows, 0.1 * rows]), tmp_path / MOUNTAINS)
    return tmp_path


def test_the_published_statistics_are_found_again(published: Field) -> None:
    """Without the southernmost row, with the unbiased deviation; tolerance: the digits that are published."""
    kept = published.values[:, 1:].double()
    torch.testing.assert_close(kept.mean((1, 2)), torch.tensor(MEAN).double(), rtol=3e-6, atol=0)
    torch.testing.assert_close(kept.std((1, 2)), torch.tensor(STD).double(), rtol=3e-6, atol=0)


def test_the_normalisation_is_that_of_the_published_network(published: Field, shared: Path) -> None:
    """The recorded mean and deviation give the same five maps; tolerance: float32."""
    from safetensors.torch import load_file

    known = load_file(shared / "fixtures" / "ladcast" / "normalisation.safetensors")
    mean, std = (next(v for k, v in known.items() if "static" in k and word in k) for word in ("mean", "std"))
    expected = (published.values[:, 1:] - mean.flatten()[:, None, None]) / std.flatten()[:, None, None]
    ours = normalise_static(published)
    assert ours.shape == (5, 120, 240) and ours.dtype == torch.float32
    torch.testing.assert_close(ours, expected.float(), rtol=1e-5, atol=1e-5)


def test_the_earth_is_the_right_way_up(published: Field) -> None:
    """Antarctica is land in row 0, the Arctic is sea, and the roughest mountains are those of High Asia."""
    land, rough = published.values[0], published.values[1]
    assert bool((land[0] == 1).all()) and bool((land[-1] == 0).all())
    at = lambda lat, lon: float(land[round((lat + 90) / 1.5), round(lon / 1.5)])  # noqa: E731
    assert at(24, 15) > 0.99 and at(-24, 135) > 0.99 and at(30, 330) == 0 and at(0, 210) == 0  # Sahara, Australia, sea
    row, column = divmod(int(rough.argmax()), 240)
    assert abs(GRID.latitude[row] - 30) <= 8 and abs(GRID.longitude[column] - 80) <= 10


def test_stores_and_files_hold_the_same_fields(tensors: Path, tmp_path: Path) -> None:
    """The WeatherBench axis order (longitude, latitude), north to south, NetCDF and Zarr are read alike."""
    field = load_static(tensors, GRID)
    dataset = field.to_xarray()
    dataset.transpose("longitude", "latitude").to_zarr(tmp_path / "wb2.zarr", zarr_format=2, consolidated=True)
    dataset.isel(latitude=slice(None, None, -1)).to_netcdf(tmp_path / "era5.nc")
    for path in (tmp_path / "wb2.zarr", tmp_path / "era5.nc", tensors / LAND, tensors / MOUNTAINS):
        other = load_static(path, GRID)
        assert [c.name for c in other.channels] == list(STATIC_NAMES)
        assert torch.equal(other.values, field.values)


def test_area_means_survive_another_grid(tensors: Path) -> None:
    """Regridding keeps the area means, to float32 rounding of the result."""
    coarse = LatLonGrid.equiangular(24, 48)
    before, after = load_static(tensors, GRID), load_static(tensors, coarse)
    for a, b in zip(before.values.double().numpy(), after.values.double().numpy(), strict=True):
        assert (b * coarse.area_weights()).sum() == pytest.approx((a * GRID.area_weights()).sum(), rel=1e-6)


def test_each_field_is_normalised_over_the_rows_that_are_kept() -> None:
    """A row at the South Pole does not count; where there is none, every row does; a constant is refused."""
    for grid, kept in ((GRID, slice(1, None)), (LatLonGrid.equiangular(120, 240), slice(None))):
        values = torch.from_numpy(np.random.default_rng(0).normal(5, 3, (5, *grid.shape))).float()
        field = Field(values, tuple(load_channels()), grid)
        got = normalise_static(field).double()
        assert got.shape[1:] == values[:, kept].shape[1:]
        torch.testing.assert_close(got.mean((1, 2)), torch.zeros(5).double(), rtol=0, atol=1e-6)
        torch.testing.assert_close(got.std((1, 2)), torch.ones(5).double(), rtol=1e-6, atol=0)
    with pytest.raises(ValueError, match="constant cannot be normalised: lsm, sdor"):
        normalise_static(Field(torch.zeros_like(values), tuple(load_channels()), grid))


def load_channels() -> list:
    from gen.data.variables import Channel

    return [Channel(name) for name in STATIC_NAMES]


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        (LAND, torch.zeros(120, 240), r"one tensor of floating-point numbers \(121, 240\); got torch.float32 \(120"),
        (LAND, torch.zeros(121, 240, dtype=torch.int64), "got torch.int64"),
        (LAND, {"mask": torch.zeros(121, 240)}, "got dict"),
        (LAND, torch.full((121, 240), 2.0), "land_sea_mask must be 0 to 1 1; got 2 to 2"),
        (LAND, torch.full((121, 240), float("nan")), "land_sea_mask must be 0 to 1"),
        (LAND, torch.linspace(0, 1, 121)[:, None].expand(121, 240).clone(), "upside down"),
        (MOUNTAINS, torch.full((4, 121, 240), 5.0), "angle_of_sub_gridscale_orography must be -1.571 to 1.571"),
        (LAND, Path("x"), "no tensor file that can be read safely"),
        (MOUNTAINS, b"PK\x03\x04 half a file", "no tensor file that can be read safely"),
        (MOUNTAINS, None, "240x121_orography.pt does not exist"),
    ],
)
def test_anything_else_is_refused(tensors: Path, file: str, content: object, message: str) -> None:
    """Other shapes and types, values out of range, a file of other objects or a damaged one: one line each."""
    path = tensors / file
    path.unlink()
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(SourceError, match=message) as caught:
        load_static(tensors / MOUNTAINS, GRID)
    assert "\n" not in str(caught.value)


def test_a_store_without_the_fields_names_them(tmp_path: Path) -> None:
    """What is missing and what is there stand in one line."""
    values = np.zeros((121, 240), np.float32)
    axes = {"latitude": GRID.latitude, "longitude": GRID.longitude}
    xr.Dataset({"land_sea_mask": (("latitude", "longitude"), values)}, axes).to_netcdf(tmp_path / "x.nc")
    with pytest.raises(SourceError, match="lacks sdor, anor, isor, slor; it has lsm"):
        load_static(tmp_path / "x.nc", GRID)
    with pytest.raises(SourceError, match="does not exist"):
        load_static(tmp_path / "nothing.zarr", GRID)
