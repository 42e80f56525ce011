"""Elevation, slopes and land of fine grids are those of the surface in the file, whatever its resolution and layout."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from numpy.typing import NDArray
from scipy.interpolate import RegularGridInterpolator

from downscaling.conditions import STATICS
from downscaling.statics import Statics, flipped
from gen.data.sources import SourceError
from gen.grid import LatLonGrid
from gen.projected_grid import ProjectedGrid

Array = NDArray[np.float64]

RADOLAN = "+proj=stere +lat_0=90 +lat_ts=60 +lon_0=10 +R=6370040"
METRES_PER_DEGREE = float(np.deg2rad(6371000.0))


def even(south: float, west: float, step: float | tuple[float, float], rows: int, columns: int) -> LatLonGrid:
    """Return a grid by the centre of its south-western pixel and its steps."""
    steps = step if isinstance(step, tuple) else (step, step)
    latitude, longitude = (np.arange(n, dtype=np.float64) * s for n, s in zip((rows, columns), steps, strict=True))
    return LatLonGrid(south + latitude, west + longitude)


ALPS = even(45.05, 6.05, 0.1, 24, 30)
GERMANY = ProjectedGrid.even(-523000.0, -4658000.0, 1000.0, (40, 50), RADOLAN)


def store(
    path: Path, values: np.ndarray, latitude: Array, longitude: Array, name: str = "elevation", **attrs: Any
) -> Path:
    coords = {"lat": latitude, "lon": longitude}
    xr.Dataset({name: (("lat", "lon"), values, attrs)}, coords=coords).to_netcdf(path)
    return path


def axes(step: float, south: float, north: float, west: float, east: float) -> tuple[Array, Array]:
    return np.arange(south + step / 2, north, step), np.arange(west + step / 2, east, step)


def surface(path: Path, step: float, height: Callable[[Array, Array], np.ndarray], **attrs: Any) -> Path:
    """Store a surface over Central Europe."""
    latitude, longitude = axes(step, 42.0, 56.0, 0.0, 18.0)
    places = np.meshgrid(latitude, longitude, indexing="ij")
    return store(path, height(*places), latitude, longitude, **attrs)


def rough(path: Path, step: float = 1.0, seed: int = 0, name: str = "elevation", shift: float = 0.0) -> Path:
    """Store random mountains round the globe, the first column at `shift`."""
    latitude, longitude = axes(step, -90.0, 90.0, 0.0, 360.0)
    values = 4000 * np.random.default_rng(seed).random((latitude.size, longitude.size))
    turned = (longitude - shift) % 360 + shift
    order = np.argsort(turned)
    return store(path, values[:, order], latitude, turned[order], name)


def window(grid: LatLonGrid | ProjectedGrid, rows: slice, columns: slice) -> LatLonGrid | ProjectedGrid:
    if isinstance(grid, ProjectedGrid):
        return grid.window(rows, columns)
    return LatLonGrid(grid.latitude[rows], grid.longitude[columns])


@pytest.mark.parametrize("step", [1.0, 0.25, 0.03])
def test_slopes_of_a_plane_are_its_own_on_the_sphere(tmp_path: Path, step: float) -> None:
    """z = a lat + b lon rises by a per degree northward and by b / cos(lat) eastward, in any resolution of the file."""
    found = Statics.open(surface(tmp_path / "z.nc", step, lambda lat, lon: 10 + 50 * (lat - 42) + 80 * lon)).fields(
        ALPS
    )
    east = 80 / (METRES_PER_DEGREE * np.cos(np.deg2rad(ALPS.latitude)))[:, None]
    centres = 10 + 50 * (ALPS.latitude[:, None] - 42) + 80 * ALPS.longitude[None]
    assert found["elevation"].numpy() == pytest.approx(centres / 1000, abs=1e-6)
    assert found["slope_north"].numpy() / 10 == pytest.approx(50 / METRES_PER_DEGREE, rel=1e-4)
    assert found["slope_east"].numpy() / 10 == pytest.approx(east + np.zeros(ALPS.shape), rel=1e-4)
    assert (found["land"] == 1).all()


@pytest.mark.parametrize("step", [1.0, 0.0045])
def test_the_gradient_on_a_map_plane_has_the_length_it_has_on_the_sphere(tmp_path: Path, step: float) -> None:
    """z = a (lat - 42) has the gradient a per degree whatever the scale and turn of the plane (a sphere: conformal)."""
    grid = ProjectedGrid.even(-20000.0, -4458000.0, 1000.0, (30, 40), RADOLAN)  # round 10 E
    latitude, longitude = axes(step, 48.0, 52.0, 8.0, 12.0)
    path = store(tmp_path / "z.nc", 300 * (latitude - 42)[:, None] + 0 * longitude[None], latitude, longitude)
    found = {name: values.numpy() / 10 for name, values in Statics.open(path).fields(grid).items()}
    length = np.hypot(found["slope_north"], found["slope_east"])
    assert length == pytest.approx(300 / METRES_PER_DEGREE, rel=2e-3)
    assert np.abs(found["slope_east"][:, 18:22]).max() < 1e-4 < found["slope_north"].min()
    exact = 0.3 * (grid.latlon()[0] - 42)
    assert 10 * found["elevation"] == pytest.approx(exact, abs=1e-4)  # km


def test_a_pixel_is_the_mean_of_the_surface(tmp_path: Path) -> None:
    """Means agree with those of 60 x 60 bilinear samples of the file, finer and coarser files alike."""
    for step in (0.04, 0.3):
        latitude, longitude = axes(step, 44.0, 48.0, 5.0, 10.0)
        values = 3000 * np.random.default_rng(1).random((latitude.size, longitude.size))
        statics = Statics.open(store(tmp_path / f"{step}.nc", values, latitude, longitude))
        grid = even(45.05, 6.05, 0.1, 5, 6)
        fine = [
            (a[:, None] + 0.1 * ((np.arange(60) + 0.5) / 60 - 0.5)).reshape(-1) for a in (grid.latitude, grid.longitude)
        ]
        sampled = RegularGridInterpolator((latitude, longitude), values)(tuple(np.meshgrid(*fine, indexing="ij")))
        mean = sampled.reshape(5, 60, 6, 60).mean((1, 3)) / 1000
        assert statics.fields(grid)["elevation"].numpy() == pytest.approx(mean, abs=2e-3)


def test_averaging_keeps_the_mean_of_the_globe(tmp_path: Path) -> None:
    """Columns of 7 degrees hold the mean of columns of 1 degree, round the whole circle."""
    statics = Statics.open(rough(tmp_path / "z.nc"))
    values = xr.open_dataset(tmp_path / "z.nc").elevation.values
    coarse = statics.fields(even(-80, 0, (20, 8), 9, 45))["elevation"].double()
    fine = statics.fields(even(-80, 0, (20, 0.5), 9, 720))["elevation"].double()
    assert coarse.mean().item() * 1000 == pytest.approx(values[1:-1].mean(), rel=5e-3)
    assert coarse.mean(1).numpy() == pytest.approx(fine.mean(1).numpy(), rel=1e-6)


def test_blocks_of_a_fine_file_average_out_on_a_map_plane(tmp_path: Path) -> None:
    """A checkerboard of cells of 0.2 km is level ground for pixels of 1 km, at half its height."""
    latitude, longitude = axes(0.002, 46.8, 47.6, 3.0, 4.2)
    checked = 1000.0 * ((np.arange(latitude.size)[:, None] + np.arange(longitude.size)) % 2)
    found = Statics.open(store(tmp_path / "z.nc", checked, latitude, longitude)).fields(GERMANY)
    assert found["elevation"].numpy() == pytest.approx(0.5, abs=0.02)
    assert found["land"].numpy() == pytest.approx(0.5, abs=0.02)
    assert found["slope_east"].abs().max() < 0.2


@pytest.mark.parametrize(("grid", "step"), [(ALPS, 1.0), (ALPS, 0.03), (GERMANY, 1.0), (GERMANY, 0.003)])
def test_the_fields_of_a_window_are_the_window_of_the_fields(
    tmp_path: Path, grid: LatLonGrid | ProjectedGrid, step: float
) -> None:
    """No pixel knows where its window ends."""
    box = (42.0, 56.0, 0.0, 18.0) if step > 0.01 else (46.8, 47.6, 3.0, 4.2)
    latitude, longitude = axes(step, *box)
    values = 2000 * np.random.default_rng(2).random((latitude.size, longitude.size))
    statics = Statics.open(store(tmp_path / "z.nc", values, latitude, longitude))
    rows, columns = slice(3, 17), slice(8, 29)
    whole, part = statics.fields(grid), statics.fields(window(grid, rows, columns))
    assert list(part) == list(STATICS)
    for name in STATICS:
        assert part[name].dtype == torch.float32
        assert torch.allclose(whole[name][rows, columns], part[name], rtol=0, atol=1e-5)


def test_longitudes_are_the_same_place_in_any_convention(tmp_path: Path) -> None:
    """Files from 0 or from 180 W, grids across the date line from either side, windows of the circle: one globe."""
    east, west = Statics.open(rough(tmp_path / "a.nc")), Statics.open(rough(tmp_path / "b.nc", shift=-180.0))
    across = [even(-40, west, 0.5, 20, 60) for west in (165.25, -194.75)]
    found = [statics.fields(grid) for statics in (east, west) for grid in across]
    circle = east.fields(even(-40, 0.25, 0.5, 20, 720))
    plane = ProjectedGrid.even(-15000.0, -7_000_000.0, 10000.0, (30, 4), RADOLAN.replace("lon_0=10", "lon_0=180"))
    for name in STATICS:
        for other in found[1:]:
            assert torch.allclose(found[0][name], other[name], atol=1e-5)
        assert torch.allclose(circle[name][:, 330:390], found[0][name], atol=1e-5)
        assert torch.allclose(east.fields(plane)[name], west.fields(plane)[name], atol=1e-5)


def test_mirrored_mountains_are_flipped_fields(tmp_path: Path) -> None:
    """`flipped` gives what the mirrored surface gives: slopes change their sign with their axis."""
    latitude, longitude = axes(0.5, -10.0, 10.0, -10.0, 10.0)
    values = 1000 * np.random.default_rng(3).random((latitude.size, longitude.size))
    grid = even(-4.9, -3.9, 0.2, 50, 40)
    fields = Statics.open(store(tmp_path / "z.nc", values, latitude, longitude)).fields(grid)
    for turned in ((0,), (1,), (0, 1)):
        mirrored = Statics.open(store(tmp_path / f"{turned}.nc", np.flip(values, turned), latitude, longitude))
        expected = mirrored.fields(grid)
        for name, found in flipped(fields, turned).items():
            assert torch.allclose(found, expected[name], atol=1e-5)


@pytest.mark.parametrize(
    ("attrs", "metres"),
    [
        ({}, 1.0),
        ({"units": "m"}, 1.0),
        ({"units": "km"}, 1000.0),
        ({"units": "m**2 s**-2"}, 1 / 9.80665),
        ({"units": "m2 s-2", "long_name": "Geopotential"}, 1 / 9.80665),
        ({"standard_name": "geopotential"}, 1 / 9.80665),
        ({"units": "m**2 s**-2", "standard_name": "geopotential", "long_name": "orographic height [m]"}, 1.0),
    ],
)
def test_heights_and_geopotentials_are_told_apart(tmp_path: Path, attrs: dict[str, str], metres: float) -> None:
    """The units decide, then the standard name; a long name that says metres is believed more than either."""
    found = Statics.open(surface(tmp_path / "z.nc", 0.5, lambda lat, lon: np.full_like(lat, 5.0), name="z", **attrs))
    assert found.fields(ALPS)["elevation"].numpy() == pytest.approx(5.0 * metres / 1000, rel=1e-6)


def test_the_sea_is_level_and_no_land(tmp_path: Path) -> None:
    """Depths and missing values are at sea level; a mask says land better than the elevation."""
    height = lambda lat, lon: np.where(lon < 7, -3000.0, np.where(lon < 8, np.nan, 500.0))  # noqa: E731
    path = surface(tmp_path / "z.nc", 0.1, height)
    found = Statics.open(path).fields(ALPS)
    sea, coast, land = slice(0, 18), slice(18, 21), slice(21, 30)
    assert (found["elevation"][:, sea] == 0).all() and (found["land"][:, sea] == 0).all()
    assert found["elevation"][:, land].numpy() == pytest.approx(0.5) and (found["land"][:, land] == 1).all()
    assert (found["land"][:, coast].diff(dim=1) >= 0).all()
    mask = surface(tmp_path / "lsm.nc", 0.1, lambda lat, lon: 100.0 * (lon > 7), name="lsm", units="%")
    masked = Statics.open(path, mask).fields(ALPS)
    assert (masked["land"][:, 12:] == 1).all() and (masked["land"][:, :8] == 0).all()
    assert torch.equal(masked["elevation"], found["elevation"])


def test_files_that_do_not_serve_are_refused_in_one_line(tmp_path: Path) -> None:
    """The line says what is wrong: extents, units, values, variables."""
    flat = surface(tmp_path / "z.nc", 0.5, lambda lat, lon: np.full_like(lat, 5.0))
    beside = even(30, 6, 0.1, 10, 10)
    with pytest.raises(
        SourceError, match=r"z.nc covers latitudes 42 to 56 and longitudes 0 to 18; .* 30 to 30.9 and 6"
    ):
        Statics.open(flat).fields(beside)
    assert Statics.open(flat).fields(beside, beyond=True)["elevation"].numpy() == pytest.approx(0.005)
    with pytest.raises(SourceError, match="unknown units 'feet'"):
        Statics.open(surface(tmp_path / "feet.nc", 0.5, lambda lat, lon: lat, units="feet"))
    high = Statics.open(surface(tmp_path / "high.nc", 0.5, lambda lat, lon: np.full_like(lat, 30000.0)))
    with pytest.raises(SourceError, match="30000 m, which is no place on Earth"):
        high.fields(ALPS)
    with pytest.raises(SourceError, match="between 0 and 1; got 5"):
        Statics.open(flat, flat).fields(ALPS)
    with pytest.raises(SourceError, match="does not exist"):
        Statics.open(tmp_path / "nothing.nc")
    void = surface(tmp_path / "void.nc", 0.5, lambda lat, lon: np.full_like(lat, np.nan))
    land = surface(tmp_path / "lsm.nc", 0.5, lambda lat, lon: np.ones_like(lat), name="lsm")
    with pytest.raises(SourceError, match="no elevations on most of the land"):
        Statics.open(void, land).fields(ALPS)
    two = xr.open_dataset(flat).rename(elevation="a").assign(b=lambda d: d.a)
    two.to_netcdf(tmp_path / "two.nc")
    with pytest.raises(SourceError, match="has no elevation; known names: .* it has a, b"):
        Statics.open(tmp_path / "two.nc")
    plane = xr.Dataset({"z": (("y", "x"), np.ones((3, 3)))}, coords={"y": [0.0, 1e3, 2e3], "x": [0.0, 1e3, 2e3]})
    plane.to_netcdf(tmp_path / "plane.nc")
    with pytest.raises(SourceError, match="not on latitudes and longitudes"):
        Statics.open(tmp_path / "plane.nc")


def test_layouts_of_files_make_no_difference(tmp_path: Path) -> None:
    """Rows from the north, longitudes beyond 180, a time axis of one, Zarr: the same fields."""
    dataset = xr.open_dataset(rough(tmp_path / "a.nc", step=2.0))
    expected = Statics.open(tmp_path / "a.nc").fields(ALPS)
    turned = dataset.isel(lat=slice(None, None, -1)).expand_dims(time=[0])
    turned.to_netcdf(tmp_path / "b.nc")
    dataset.rename(lat="latitude", lon="longitude").to_zarr(tmp_path / "c.zarr", zarr_format=2)
    dataset.rename(lat="y", lon="x").to_netcdf(tmp_path / "d.nc")
    for name in ("b.nc", "c.zarr", "d.nc"):
        found = Statics.open(tmp_path / name).fields(ALPS)
        assert all(torch.allclose(found[key], expected[key], atol=1e-6) for key in STATICS)


def test_real_files_agree_about_real_mountains(shared: Path) -> None:
    """The global orography (18 km) and two regional files have the same mean height; the Alps rise from the plain."""
    data = shared / "data"
    world = Statics.open(data / "static" / "orography.nc", data / "static" / "land-sea_mask.nc")
    assert "orography.nc (metres, as the long name says" in world.described and "land-sea_mask.nc" in world.described
    colorado = even(38, -108, 0.1, 20, 20)
    utah = even(37.2, -113.2, 0.01, 30, 30)
    for name, grid, error in (("colorado_elev.nc", colorado, 0.02), ("srtm.tif", utah, 0.15)):
        regional = Statics.open(data / "terrain" / name).fields(grid)
        assert regional["elevation"].mean().item() == pytest.approx(
            world.fields(grid)["elevation"].mean().item(), abs=error
        )
    alps = world.fields(even(45.25, 7.25, 0.5, 3, 4))
    assert alps["elevation"].max() > 1.5 and (alps["land"] > 0.9).all()
    atlantic = world.fields(even(40, -30, 0.1, 5, 5))
    assert atlantic["elevation"].max() < 0.005 and (atlantic["land"] == 0).all()
    with pytest.raises(SourceError, match=r"elev_vinschgau.tif is projected \(EPSG 32632\)"):
        Statics.open(data / "terrain" / "elev_vinschgau.tif")
