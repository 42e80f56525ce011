"""gen.data.regrid: from 0.25 to 1.5 degrees the area means are exact; the sea surface is averaged over the sea."""

from __future__ import annotations

import numpy as np
import pytest

from gen.data.regrid import Coarsening, coarsening, regrid_maps
from gen.grid import LatLonGrid, regrid

FINE, COARSE = LatLonGrid.equiangular(721, 1440, poles=True), LatLonGrid.equiangular(121, 240, poles=True)


def wavy(grid: LatLonGrid, offset: float = 0.0) -> np.ndarray:
    lat, lon = np.deg2rad(grid.latitude)[:, None], np.deg2rad(grid.longitude)[None, :]
    return offset + np.cos(lat) ** 2 * np.cos(5 * lon) + np.sin(3 * lat) + 0.1 * np.sin(40 * lon) * np.cos(lat)


def overlap_mean(values: np.ndarray, row: int, column: int) -> tuple[float, float]:
    """Integrate over one 1.5-degree cell, source cell by source cell, in plain arithmetic; return mean and share.

    Edges lie half a cell from the centres, at the poles they end: 0.75 and 0.125 degrees. Nothing of the code under
    test is used, neither its edges nor its matrices.
    """
    south, north = (max(-90.0, min(90.0, -90.0 + 1.5 * row + e)) for e in (-0.75, 0.75))
    west, east = 1.5 * column - 0.75, 1.5 * column + 0.75
    total = weight = area = 0.0
    for j in range(721):
        low, high = (max(-90.0, min(90.0, -90.0 + 0.25 * j + e)) for e in (-0.125, 0.125))
        low, high = max(low, south), min(high, north)
        if high <= low:
            continue
        height = np.sin(np.deg2rad(high)) - np.sin(np.deg2rad(low))
        for i in range(-8, 1448):
            width = min(0.25 * i + 0.125, east) - max(0.25 * i - 0.125, west)
            if width <= 0:
                continue
            value = values[j, i % 1440]
            area += height * width
            if not np.isnan(value):
                total, weight = total + value * height * width, weight + height * width
    return (total / weight if weight else np.nan), weight / area


def test_every_cell_is_the_mean_over_its_overlaps() -> None:
    """Cells at both poles, at Greenwich and elsewhere against the integral done by hand; tolerance: float64."""
    values = wavy(FINE)
    got = Coarsening(FINE, COARSE)(values)
    for row, column in ((0, 0), (0, 117), (1, 0), (60, 0), (60, 239), (83, 51), (119, 200), (120, 7)):
        assert got[row, column] == pytest.approx(overlap_mean(values, row, column)[0], abs=1e-12)


def test_constants_are_kept_exactly_and_means_to_rounding() -> None:
    """A constant in float32 comes out bit for bit; the mean over the sphere is kept, in float32 to 1e-7."""
    means = Coarsening(FINE, COARSE)
    flat = np.full(FINE.shape, 273.16, np.float32)
    assert np.array_equal(means(flat), np.full(COARSE.shape, 273.16, np.float32))
    for kind, tolerance in ((np.float64, 1e-14), (np.float32, 1e-7)):
        values = wavy(FINE, 280.0).astype(kind)
        before, after = (values * FINE.area_weights()).sum(), (means(values) * COARSE.area_weights()).sum()
        assert after == pytest.approx(before, rel=tolerance)


def test_the_sea_is_averaged_over_the_sea() -> None:
    """Cells with land hold the mean over their sea; with any sea by default, else with as much of it as asked for."""
    values = wavy(FINE, 290.0)
    values[np.random.default_rng(0).random(FINE.shape) < 1.2 * FINE.longitude / 360 - 0.1] = np.nan
    cells = [(60, 5), (73, 70), (95, 140), (120, 100), (88, 190), (40, 220), (30, 239)]
    by_hand = {cell: overlap_mean(values, *cell) for cell in cells}
    shares = {share for _, share in by_hand.values()}
    assert any(0 < share < 0.5 for share in shares) and any(0.5 < share < 1 for share in shares)
    for least in (0.0, 0.5, 1.0):
        got = Coarsening(FINE, COARSE, least)(values)
        for cell, (mean, share) in by_hand.items():
            kept = share > 0 and share >= least - 1e-9
            assert got[cell] == pytest.approx(mean, abs=1e-10) if kept else np.isnan(got[cell])
    with pytest.raises(ValueError, match=r"must be in \[0, 1\]; got 2"):
        Coarsening(FINE, COARSE, 2.0)


def test_it_is_what_the_grid_module_computes() -> None:
    """The same means as the dense matrices, NaN included, and the overlaps are computed once."""
    values = np.stack([wavy(FINE), wavy(FINE, 3.0)])
    values[1, 200:260, 300:420] = np.nan
    np.testing.assert_allclose(regrid_maps(values, FINE, COARSE), regrid(values, FINE, COARSE), rtol=0, atol=1e-13)
    assert coarsening(FINE, COARSE) is coarsening(LatLonGrid.equiangular(721, 1440, poles=True), COARSE)


def test_a_box_cannot_give_the_globe() -> None:
    """The covered part is named."""
    box = LatLonGrid(np.arange(20.0, 60.0), np.arange(0.0, 90.0))
    with pytest.raises(ValueError, match="cover 19.5 to 59.5 N"):
        Coarsening(box, LatLonGrid.equiangular(6, 12))
