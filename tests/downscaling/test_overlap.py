"""Area overlap: exact means over coarse cells for any factor, coverage and mask, without a dense matrix."""

from __future__ import annotations

import numpy as np
import pytest

from downscaling.overlap import Overlap
from gen.grid import LatLonGrid, regrid
from gen.projected_grid import ProjectedGrid

CRS = "+proj=stere +lat_0=90 +lat_ts=60 +lon_0=10 +R=6370040"


def box(south: float, west: float, step: float, rows: int, columns: int) -> LatLonGrid:
    """Return a regular grid whose south-western cell edge is given."""
    return LatLonGrid(south + step * (np.arange(rows) + 0.5), west + step * (np.arange(columns) + 0.5))


@pytest.mark.parametrize("west", [5.0, -7.0, 172.0], ids=["east", "across Greenwich", "across the date line"])
def test_means_on_the_sphere_agree_with_conservative_regridding(west: float) -> None:
    """ERA5 to IMERG, factor 2.5: the dense matrices of gen.grid give the same means, to rounding."""
    fine, coarse = box(40.0, west, 0.1, 50, 75), box(40.0, west, 0.25, 20, 30)
    values = np.random.default_rng(0).gamma(0.5, size=(3, *fine.shape))
    overlap = Overlap.between(coarse, fine)
    assert overlap.active.all() and not overlap.is_nested
    np.testing.assert_allclose(overlap.apply(values), regrid(values, fine, coarse), rtol=1e-12)


def test_longitudes_of_two_conventions_meet() -> None:
    """RainShift's inputs lie at 300..302 degrees, its targets at -60..-58; across the date line likewise."""
    values = np.random.default_rng(0).gamma(0.5, size=(20, 20))
    for west, other in ((300.0, -60.0), (179.0, -181.0)):
        coarse = box(0.0, west, 0.25, 8, 8)
        moved = Overlap.between(coarse, box(0.0, other, 0.1, 20, 20))
        same = Overlap.between(coarse, box(0.0, west, 0.1, 20, 20))
        assert moved.active.all()
        np.testing.assert_allclose(moved.apply(values), same.apply(values), rtol=1e-12)


def test_missing_pixels_leave_the_mean_of_the_others() -> None:
    """NaN-aware regridding is the independent answer; cells with too little left are NaN."""
    fine, coarse = box(-10.0, 0.0, 0.4, 30, 40), box(-10.0, 0.0, 1.0, 12, 16)
    rng = np.random.default_rng(1)
    values, valid = rng.gamma(0.5, size=fine.shape), rng.random(fine.shape) > 0.3
    valid[:10, :10] = False
    means = Overlap.between(coarse, fine, valid, min_share=0.25).apply(values)
    expected = regrid(np.where(valid, values, np.nan), fine, coarse)
    assert np.isnan(means[:4, :4]).all() and np.isfinite(means).mean() > 0.9
    np.testing.assert_allclose(means[np.isfinite(means)], expected[np.isfinite(means)], rtol=1e-12)


def test_the_share_that_activates_a_cell_is_that_of_its_whole_area() -> None:
    """A cell of which 40 % lies on the fine grid is active for a share of 0.4 and not for 0.41."""
    coarse = ProjectedGrid.even(0.0, 0.0, 1000.0, (2, 2), CRS)
    fine = ProjectedGrid.even(-450.0, -450.0, 100.0, (20, 14), CRS)
    for share, expected in ((0.4, True), (0.41, False)):
        active = Overlap.between(coarse, fine, min_share=share).active
        assert active[:, 0].all() and (active[:, 1] == expected).all()


@pytest.mark.parametrize("factor", [1.0, 2.5, 4.0, 3.3])
def test_transpose_is_the_adjoint(factor: float) -> None:
    """<A y, c> = <y, A^T c> for all y and c, also with missing pixels."""
    rng = np.random.default_rng(2)
    overlap = Overlap.by_factor((23, 34), factor, rng.random((23, 34)) > 0.2)
    y, c = rng.standard_normal((23, 34)), rng.standard_normal(overlap.coarse_shape)
    left = np.nansum(overlap.apply(y) * c)
    assert left == pytest.approx((overlap.transpose(c) * y).sum(), rel=1e-12)


def test_whole_factors_are_block_means() -> None:
    """On a plane with factor 4 the operator is reshape and mean, and no pixel is cut."""
    y = np.random.default_rng(3).random((5, 12, 20))
    overlap = Overlap.by_factor((12, 20), 4)
    assert overlap.is_nested
    np.testing.assert_allclose(overlap.apply(y), y.reshape(5, 3, 4, 5, 4).mean(axis=(2, 4)), rtol=1e-13)
    np.testing.assert_array_equal(overlap.owner[::4, ::4], np.arange(15).reshape(3, 5))


def test_factor_two_and_a_half_by_hand() -> None:
    """Five pixels under two cells: the third is shared half and half."""
    overlap = Overlap.by_factor((5, 5), 2.5)
    y = np.outer(np.ones(5), [1.0, 2.0, 4.0, 8.0, 16.0])
    np.testing.assert_allclose(overlap.apply(y), [[(1 + 2 + 2) / 2.5, (2 + 8 + 16) / 2.5]] * 2)
    np.testing.assert_array_equal(overlap.owner[0], [0, 0, -1, 1, 1])


def test_a_global_grid_closes_round_the_circle() -> None:
    """Coarse cells centred on Greenwich take fine ones from both ends; the area adds up to that of the sphere."""
    coarse, fine = LatLonGrid.equiangular(18, 36), LatLonGrid(np.arange(-88.0, 89, 4), np.arange(2.0, 360, 4))
    values = np.random.default_rng(4).random(fine.shape)
    overlap = Overlap.between(coarse, fine)
    np.testing.assert_allclose(overlap.apply(values), regrid(values, fine, coarse), rtol=1e-12)
    assert np.deg2rad(overlap.coarse_area.sum()) == pytest.approx(4 * np.pi)


def test_what_does_not_fit_is_refused_in_one_line() -> None:
    """A factor below one, two kinds of grid, a mask of another shape, no room for a coarse cell."""
    fine, coarse = box(0.0, 0.0, 0.1, 20, 20), box(0.0, 0.0, 0.25, 8, 8)
    with pytest.raises(ValueError, match=r"the factor 0.4 is below 1"):
        Overlap.between(fine, coarse)
    with pytest.raises(ValueError, match="must share their projection"):
        Overlap.between(coarse, ProjectedGrid.even(0, 0, 1.0, (2, 2), CRS))
    with pytest.raises(ValueError, match=r"the mask has shape \(3, 3\)"):
        Overlap.between(coarse, fine, np.ones((3, 3), bool))
    with pytest.raises(ValueError, match="no coarse cell of 8 fits into 4x20"):
        Overlap.by_factor((4, 20), 8)


@pytest.mark.parametrize("factor", [1.5, 2.5, 4.0])
def test_interpolation_is_exact_for_linear_fields_between_the_outermost_centres(factor: float) -> None:
    """Values of a plane at coarse centres give the plane at fine centres; beyond them the last value is held."""
    overlap = Overlap.by_factor((30, 45), factor)
    y, x = (factor * (np.arange(n) + 0.5) for n in overlap.coarse_shape)
    fine_y, fine_x = (np.clip(np.arange(n) + 0.5, c[0], c[-1]) for n, c in zip((30, 45), (y, x), strict=True))
    found = overlap.interpolate(2 + 0.3 * y[:, None] - 0.1 * x[None])
    np.testing.assert_allclose(found, 2 + 0.3 * fine_y[:, None] - 0.1 * fine_x[None], atol=1e-7)


def test_entries_are_the_dense_matrix() -> None:
    """Areas of (coarse, fine) overlaps, valid pixels only, are what `spread_sum` adds up."""
    valid = np.random.default_rng(0).random((10, 15)) > 0.2
    overlap = Overlap.by_factor((10, 15), 2.5, valid)
    i, j, area = overlap.entries
    dense = np.zeros((24, 150))
    dense[i, j] = area
    values = np.random.default_rng(1).random((10, 15))
    np.testing.assert_allclose(dense @ values.ravel(), overlap.spread_sum(values * valid).ravel(), rtol=1e-12)
