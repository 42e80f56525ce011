"""Tiles along an axis: those of the plain lattice away from the date line, closed round a circle."""

from __future__ import annotations

import numpy as np
import pytest

from diffusion.tiling import spans
from downscaling.lattice import Target, build_domain
from downscaling.tiles import tiles
from gen.grid import LatLonGrid, Region
from gen.projected_grid import ProjectedGrid

SIDE, OVERLAP, UNIT = 160, 16, 4


def columns(west: float, count: int, step: float = 1.0, **target: object):
    grid = LatLonGrid(np.arange(0.5, 20), west + step * (np.arange(count) + 0.5))
    return build_domain(grid, Target(4.0, **target), SIDE).columns  # type: ignore[arg-type]


def test_away_from_the_date_line_they_are_the_lattice_of_windows() -> None:
    """A regional input and a map plane: the same spans as `diffusion.tiling`, drawn by their own numbers."""
    plane = ProjectedGrid.even(
        -523e3, -4658e3, 4e3, (200, 210), "+proj=stere +lat_0=90 +lat_ts=60 +lon_0=10 +R=6370040"
    )
    for axis in (columns(-20, 100), build_domain(plane, Target(4.0), SIDE).columns):
        low, high = axis.first // UNIT * UNIT, -(-axis.stop // UNIT) * UNIT
        wanted = [(low + s.start, low + s.stop) for s in spans(high - low, SIDE, OVERLAP, low)]
        found = tiles(axis, SIDE, OVERLAP, UNIT)
        assert [(t.pixels.start, t.pixels.stop) for t in found] == wanted
        assert all(t.turn == 0 and t.begin == t.pixels.start for t in found)


@pytest.mark.parametrize("region", [None, Region(0, 20, 171, -171), Region(0, 20, -180, 180)])
def test_round_the_globe_weights_sum_to_one_everywhere(region: Region | None) -> None:
    """Raised cosines of neighbours add up to one, across the date line as elsewhere."""
    axis = columns(0, 360, region=region)
    total = np.zeros(axis.stop - axis.first)
    for tile in tiles(axis, SIDE, OVERLAP, UNIT):
        assert tile.turn == 0 and tile.pixels.start >= 0 and tile.pixels.stop <= 1440 + OVERLAP
        assert (tile.begin - tile.pixels.start) % 1440 == 0 and len(tile.rise) == tile.pixels.stop - tile.pixels.start
        begin, end = max(tile.begin, axis.first), min(tile.begin + len(tile.rise), axis.stop)
        total[begin - axis.first : end - axis.first] += tile.rise[begin - tile.begin : end - tile.begin].numpy()
    np.testing.assert_allclose(total, 1.0, atol=1e-6)


def test_an_input_across_the_date_line_is_cut_into_the_tiles_of_the_globe() -> None:
    """100 E to 260 E: inner tiles have the numbers of global ones; beyond 180 degrees the input lies a circle on."""
    globe = {(t.pixels.start, t.pixels.stop) for t in tiles(columns(0, 360), SIDE, OVERLAP, UNIT)}
    found = tiles(columns(100, 160), SIDE, OVERLAP, UNIT)
    assert {(t.pixels.start, t.pixels.stop) for t in found[1:-1]} <= globe
    assert [t.turn for t in found] == [0, 0, 0, 1440, 1440, 1440]
    assert all(t.begin == t.pixels.start + t.turn for t in found)


def test_a_short_circle_is_cut_in_two() -> None:
    """36 cells of ten degrees: 144 pixels, less than a tile; no tile reaches round; one far too short is refused."""
    found = tiles(columns(0, 36, 10.0), SIDE, OVERLAP, UNIT)
    assert {(t.pixels.start, t.pixels.stop) for t in found} == {(0, 72 + OVERLAP), (72, 144 + OVERLAP)}
    with pytest.raises(ValueError, match="too short for tiles: take a larger factor"):
        tiles(columns(0, 10, 36.0), SIDE, OVERLAP, UNIT)
