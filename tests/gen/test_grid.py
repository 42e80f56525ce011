"""Cells cover the sphere exactly, regridding conserves exactly, regions mean what they say."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import eval_legendre

from gen.grid import LatLonGrid, Region, conservative_weights, haversine, regrid

GRIDS = {
    "with poles": LatLonGrid.equiangular(121, 240, poles=True),
    "cell centred": LatLonGrid.equiangular(120, 240),
    "without the south pole row": LatLonGrid(np.linspace(-88.5, 90, 120), np.arange(240) * 1.5),
    "gaussian": LatLonGrid.gaussian(48, 96),
    "shifted": LatLonGrid(np.linspace(-87, 87, 30), np.arange(36) * 10.0 + 3.7),
}


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS.keys())
def test_areas_sum_to_the_sphere(grid: LatLonGrid) -> None:
    """The cells of a global grid tile the sphere: their areas sum to 4 pi, up to rounding of 3e4 terms."""
    assert grid.is_global
    assert grid.cell_areas().sum() == pytest.approx(4 * np.pi, abs=1e-12)
    assert grid.area_weights().sum() == pytest.approx(1.0, abs=1e-13)
    assert (grid.cell_areas() > 0).all()


def test_integral_of_cos_squared_colatitude_converges_with_order_two() -> None:
    """The integral of sin(lat)^2 is 4 pi / 3; midpoint values give it with errors falling as rows^-2."""
    errors = []
    for rows in (40, 80, 160, 320):
        grid = LatLonGrid.equiangular(rows, 8)
        integral = (grid.cell_areas() * np.sin(np.deg2rad(grid.latitude))[:, None] ** 2).sum()
        errors.append(abs(integral / (4 * np.pi / 3) - 1))
    orders = np.log2(np.array(errors[:-1]) / np.array(errors[1:]))
    assert np.abs(orders - 2.0).max() < 0.01  # the next term of the expansion is 1e-3 of the first
    assert errors[-1] < 1e-4


def test_cosine_weights_are_exact_on_cell_centred_rows_only() -> None:
    """sin(b+d) - sin(b-d) = 2 cos(b) sin(d): cosine weights are right for equal bands, and give pole rows nothing."""
    centred = LatLonGrid.equiangular(120, 240)
    cosine = np.cos(np.deg2rad(centred.latitude))
    np.testing.assert_allclose(centred.area_weights().sum(1), cosine / cosine.sum(), atol=3e-14)
    poles = LatLonGrid.equiangular(121, 240, poles=True)
    exact, cosine = poles.area_weights().sum(1), np.cos(np.deg2rad(poles.latitude))
    assert exact[0] == pytest.approx((1 - np.sin(np.deg2rad(89.25))) / 2, rel=1e-9)  # 4.3e-5, not zero
    assert np.abs(exact / (cosine / cosine.sum()) - 1)[1:-1].max() == pytest.approx(8.6e-5, rel=0.05)


def test_gaussian_rows_are_roots_of_the_legendre_polynomial() -> None:
    """P_48(sin(lat)) vanishes on the 48 rows, checked with scipy's polynomial."""
    rows = np.sin(np.deg2rad(LatLonGrid.gaussian(48, 96).latitude))
    assert np.abs(eval_legendre(48, rows)).max() < 1e-12


def overlap(a0: float, a1: float, b0: float, b1: float) -> float:
    return max(0.0, min(a1, b1) - max(a0, b0))


def test_weights_equal_overlaps_of_cells_taken_one_by_one() -> None:
    """The separable matrices equal areas of intersection of spherical rectangles, looped over all pairs of cells."""
    src, dst = LatLonGrid.equiangular(7, 9, poles=True), LatLonGrid(np.linspace(-75, 75, 6), np.arange(5) * 72.0 + 11)
    lat, lon = conservative_weights(src, dst)
    s, d = (np.sin(np.deg2rad(g.latitude_bounds())) for g in (src, dst))
    x, y = src.longitude_bounds(), dst.longitude_bounds()
    for i in range(6):
        for j in range(5):
            for k in range(7):
                for m in range(9):
                    rows = overlap(s[k], s[k + 1], d[i], d[i + 1])
                    turns = (-360.0, 0.0, 360.0)
                    columns = sum(overlap(x[m] + t, x[m + 1] + t, y[j], y[j + 1]) for t in turns)
                    share = rows * columns / ((d[i + 1] - d[i]) * (y[j + 1] - y[j]))
                    assert lat[i, k] * lon[j, m] == pytest.approx(share, abs=1e-14)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("dst", [LatLonGrid.gaussian(20, 40), LatLonGrid.equiangular(91, 180, poles=True)])
def test_regridding_keeps_the_mean_over_the_sphere(dst: LatLonGrid, order: int) -> None:
    """Area-weighted means agree before and after to rounding, whether refined or coarsened."""
    src = LatLonGrid.gaussian(32, 64)
    x = np.random.default_rng(0).normal(size=(2, *src.shape))
    before = (x * src.area_weights()).sum((-2, -1))
    after = (regrid(x, src, dst, order) * dst.area_weights()).sum((-2, -1))
    np.testing.assert_allclose(after, before, atol=1e-15)


@pytest.mark.parametrize("order", [1, 2])
def test_regridding_keeps_a_constant(order: int) -> None:
    """A constant field stays what it is: the weights of a cell sum to one."""
    src, dst = LatLonGrid.equiangular(33, 64, poles=True), LatLonGrid.gaussian(48, 96)
    np.testing.assert_allclose(regrid(np.full(src.shape, 273.15), src, dst, order), 273.15, rtol=1e-13)


def smooth(grid: LatLonGrid) -> np.ndarray:
    """Return the exact means of sin(lat) cos(2 lon) over the cells."""
    mu = np.sin(np.deg2rad(grid.latitude_bounds()))
    east = np.deg2rad(grid.longitude_bounds())
    rows = np.diff(mu**2 / 2) / np.diff(mu)
    columns = np.diff(np.sin(2 * east) / 2) / np.diff(east)
    return rows[:, None] * columns


def test_second_order_refinement_converges_faster() -> None:
    """Against exact cell means of a smooth field the error falls by 4 per doubling at second order, by 2 at first."""
    errors = {1: [], 2: []}
    for rows in (16, 32, 64):
        src, dst = LatLonGrid.equiangular(rows, 2 * rows), LatLonGrid.equiangular(3 * rows, 6 * rows)
        for order in (1, 2):
            inner = slice(rows // 2, -(rows // 2))  # the closed ends have one-sided slopes
            errors[order].append(np.abs(regrid(smooth(src), src, dst, order) - smooth(dst))[inner].max())
    assert errors[1][1] / errors[1][2] == pytest.approx(2.0, abs=0.2)
    assert errors[2][1] / errors[2][2] == pytest.approx(4.0, abs=0.6)


def test_missing_values_are_left_out() -> None:
    """With NaN a cell is the mean of its valid part; where nothing is valid it is NaN."""
    src, dst = LatLonGrid.equiangular(8, 16), LatLonGrid.equiangular(4, 8)
    dst = LatLonGrid(dst.latitude, dst.longitude + 11.25)  # nested: each cell holds two by two
    x = np.ones(src.shape)
    x[0, 0] = np.nan
    x[4:6, 4:6] = np.nan
    out = regrid(x, src, dst)
    assert np.isnan(out).nonzero() == (2, 2)
    np.testing.assert_allclose(np.delete(out.ravel(), 2 * 8 + 2), 1.0, rtol=1e-14)


def test_nested_cells_are_plain_area_means() -> None:
    """Four cells that share all edges with one larger give their area-weighted mean."""
    src = LatLonGrid.equiangular(8, 16)
    dst = LatLonGrid(np.linspace(-67.5, 67.5, 4), np.arange(8) * 45.0 + 11.25)
    x = np.random.default_rng(1).normal(size=src.shape)
    area = src.cell_areas()
    blocks = (x * area).reshape(4, 2, 8, 2).sum((1, 3)) / area.reshape(4, 2, 8, 2).sum((1, 3))
    np.testing.assert_allclose(regrid(x, src, dst), blocks, rtol=1e-12, atol=1e-14)


def test_tensors_stay_tensors_and_equal_grids_stay_untouched() -> None:
    """A tensor comes back with its dtype; the same grid gives the same bits."""
    src, dst = LatLonGrid.gaussian(8, 16), LatLonGrid.gaussian(6, 12)
    x = torch.rand(3, 8, 16)
    assert regrid(x, src, dst).dtype == torch.float32
    assert torch.equal(regrid(x, src, LatLonGrid.gaussian(8, 16)), x)


def test_grids_are_compared_by_value_and_survive_json() -> None:
    """Rounding below 1e-6 degrees does not make another grid; `to_dict` gives back an equal one."""
    grid = LatLonGrid.gaussian(48, 96)
    near = LatLonGrid(grid.latitude.astype(np.float32), grid.longitude)
    assert LatLonGrid.from_dict(grid.to_dict()) == grid
    assert (near == grid) == bool(np.abs(near.latitude - grid.latitude).max() < 1e-6)
    assert grid != LatLonGrid.equiangular(48, 96)


@pytest.mark.parametrize(
    ("latitude", "longitude", "message"),
    [
        ([10, 0], [0, 90], "ascending"),
        ([0, 95], [0, 90], r"latitude must be in \[-90, 90\]"),
        ([0, 10], [0, 120, 240, 360], "longitude"),
        ([0, 10], [-180, 0, 180], "drop the last column"),
        ([0, np.nan], [0, 90], "ascending"),
    ],
)
def test_axes_that_are_no_grid_are_refused(latitude: list[float], longitude: list[float], message: str) -> None:
    """Each broken rule is named."""
    with pytest.raises(ValueError, match=message):
        LatLonGrid(np.array(latitude, float), np.array(longitude, float))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("30,72,-12", "four numbers"),
        ("72,30,0,40", "south < north"),
        ("-91,0,0,40", "-90 <= south"),
        ("30,40,0,400", r"in \[-180, 360\]"),
        ("30,40,20,20", "more than 0"),
        ("a,b,c,d", "four numbers"),
        ("nan,40,0,10", "south < north"),
    ],
)
def test_regions_off_the_globe_are_refused(text: str, message: str) -> None:
    """A region that is no box on the globe is one clear line."""
    with pytest.raises(ValueError, match=message) as caught:
        Region.parse(text)
    assert "\n" not in str(caught.value)


@given(
    south=st.integers(-80, 40),
    height=st.integers(10, 40),
    west=st.integers(-180, 179),
    width=st.integers(20, 359),
)
def test_a_subset_holds_just_the_cells_of_the_region(south: int, height: int, west: int, width: int) -> None:
    """Whatever the box, also across Greenwich and the date line, its cells are those found one by one, west to east."""
    grid = LatLonGrid.equiangular(36, 72)
    east = west + width if west + width <= 360 else west + width - 360
    part = grid.subset(Region(south, south + height, west, east))
    wanted = {float(x) for x in grid.longitude if (x - west) % 360 <= width}
    assert {float(x) % 360 for x in part.longitude} == wanted
    assert (np.diff(part.longitude) > 0).all()
    assert all(south <= y <= south + height for y in part.latitude)


def test_regional_cells_are_the_global_cells() -> None:
    """Cutting a box out of an equiangular grid does not change the area of its cells."""
    grid = LatLonGrid.equiangular(36, 72)
    region = Region.parse("30,70,-20,40")
    rows, columns = grid.indices(region)
    np.testing.assert_allclose(grid.subset(region).cell_areas(), grid.cell_areas()[rows][:, columns], rtol=1e-12)
    assert not grid.subset(region).is_global


def test_an_empty_region_is_refused() -> None:
    """A box between the rows holds no cells and says so."""
    with pytest.raises(ValueError, match="holds"):
        LatLonGrid.equiangular(18, 36).subset(Region(1.0, 2.0, 0.0, 90.0))


def test_great_circle_distances() -> None:
    """A quarter of the equator, pole to pole, and 0 to 180 degrees are fractions of 2 pi R; order does not matter."""
    quarter = np.pi / 2 * 6371.0
    assert haversine(0, 0, 0, 90) == pytest.approx(quarter, rel=1e-12)
    assert haversine(-90, 10, 90, 70) == pytest.approx(2 * quarter, rel=1e-9)
    assert haversine(12, 350, -30, 20) == pytest.approx(float(haversine(-30, 20, 12, -10)), rel=1e-12)
