"""The lattice of fine pixels: numbers, targets, the date line, poles, mistakes."""

from __future__ import annotations

import numpy as np
import pytest

from downscaling.lattice import Target, build_domain
from gen.grid import LatLonGrid, Region
from gen.projected_grid import ProjectedGrid

CRS = "+proj=stere +lat_0=90 +lat_ts=60 +lon_0=10 +R=6370040"


def grid(south: float, west: float, rows: int = 80, columns: int = 80, step: float = 0.25) -> LatLonGrid:
    return LatLonGrid(south + step * np.arange(rows), west + step * np.arange(columns))


@pytest.mark.parametrize("south", [40.0, 40.25])
def test_eighty_cells_of_factor_2_5_are_two_hundred_pixels(south: float) -> None:
    """Whether or not the first coarse edge is a fine one."""
    assert build_domain(grid(south, 5.0), Target(2.5), 100).shape == (200, 200)


def test_crops_number_pixels_alike() -> None:
    """A crop of the coarse input lies on the same lattice."""
    whole, part = (build_domain(g, Target(2.5), 100) for g in (grid(40, 5), grid(41.75, 6.25, 40, 33)))
    for a, b in ((whole.rows, part.rows), (whole.columns, part.columns)):
        assert a.origin == b.origin and a.step == b.step
        assert b.first > a.first
        np.testing.assert_allclose(a.centres(b.first, b.stop), b.centres(b.first, b.stop), rtol=0, atol=1e-12)
        cells = b.start - a.start
        np.testing.assert_array_equal(a.positions(b.first + 5, b.stop), b.positions(b.first + 5, b.stop) + cells)


def test_common_edges_are_every_second_coarse_cell() -> None:
    """At factor 2.5 a fine edge meets a coarse one every five pixels; pieces are cut there only."""
    rows = build_domain(grid(40, 5), Target(2.5), 100).rows
    cuts = rows.cuts(20)
    assert all(abs(v - round(v)) < 1e-9 for v in (np.array(cuts[1:-1]) / 2.5 + rows.shift))
    assert cuts[0] == rows.first and cuts[-1] == rows.stop and min(np.diff(cuts)) >= 20


def test_a_region_may_cross_the_date_line() -> None:
    """From a global input on 0..360, columns go on across 180 degrees and the coarse cells with them."""
    globe = LatLonGrid(np.arange(-89.5, 90), np.arange(0.5, 360))
    domain = build_domain(globe, Target(4.0, region=Region(-10, 10, 170, -170)), 64)
    longitude = domain.grid.longitude  # type: ignore[union-attr]
    assert domain.shape == (80, 80)
    assert longitude[0] == pytest.approx(170.125) and longitude[-1] == pytest.approx(189.875)
    low, high = domain.columns.cells_of(domain.columns.first, domain.columns.stop)
    assert domain.columns.cells[low:high].tolist() == list(range(170, 190))


@pytest.mark.parametrize("west", [0.0, -180.0])
@pytest.mark.parametrize("box", [None, Region(-80, 80, -180, 180), Region(-80, 80, 0, 360)])
def test_a_circle_is_opened_where_edges_meet(west: float, box: Region | None) -> None:
    """ERA5 (a cell centre on Greenwich) at factor 2.5: 3,600 pixels from a common edge, every coarse cell once."""
    coarse = LatLonGrid(-79.875 + 0.25 * np.arange(640), west + 0.25 * np.arange(1440))
    domain = build_domain(coarse, Target(2.5, region=box), 640)
    axis = domain.columns
    assert axis.circle and axis.period == 3600 == domain.shape[1] and 0 <= axis.first < 3600
    place = axis.first / 2.5 + axis.shift
    assert place == round(place)
    rows, columns, grid = domain.coarse()
    assert sorted(axis.cells[columns]) == list(range(1440))
    middle = axis.coarse_edges(columns.start, columns.stop)[:-1] + 0.125
    np.testing.assert_allclose((middle - coarse.longitude[axis.cells[columns]]) % 360 % 360, 0, atol=1e-9)


def test_a_pole_is_refused_with_the_reason() -> None:
    """Cells of a latitude-longitude grid have no width there; a region within 85 degrees goes."""
    globe = LatLonGrid(np.arange(-89.5, 90), np.arange(0.5, 360))
    with pytest.raises(ValueError, match="at a pole the cells .* have no width.*--region"):
        build_domain(globe, Target(4.0), 64)
    build_domain(globe, Target(4.0, region=Region(60, 85, 0, 20)), 64)


def test_a_map_plane_counts_from_its_origin() -> None:
    """Coarse cells from -52 km on are number -7 and following of a lattice of 8 km that is shifted by 4 km."""
    coarse = ProjectedGrid.even(-48_000.0, -4_000_000.0, 8000.0, (20, 24), CRS)
    domain = build_domain(coarse, Target(8.0), 64)
    assert domain.shape == (160, 192) and domain.columns.first == -56 and domain.columns.origin == 4000.0
    assert domain.grid == ProjectedGrid.even(-51_500.0, -4_003_500.0, 1000.0, (160, 192), CRS)


def test_the_fine_grid_may_be_given() -> None:
    """A grid whose edges meet no coarse edge is numbered by its own step; its centres come out again."""
    fine = grid(42.03, 8.01, 30, 40, 0.1)
    domain = build_domain(grid(40, 5), Target(grid=fine), 64)
    assert domain.grid == fine and domain.rows.factor == 2.5
    assert domain.rows.positions(domain.rows.first, domain.rows.stop)[0] == pytest.approx((42.03 - 39.875) / 0.25)


@pytest.mark.parametrize(
    ("coarse", "target", "words"),
    [
        (grid(40, 5), Target(spacing=0.5), "must not be wider than the coarse ones"),
        (grid(40, 5), Target(2.0, region=Region(-10, 10, 100, 120)), "beside the input"),
        (grid(40, 5), Target(grid=grid(55, 8, 90, 40, 0.1)), "reaches beyond the input"),
        (LatLonGrid.gaussian(64, 128), Target(2.0), "not evenly spaced"),
        (grid(40, 5), Target(grid=ProjectedGrid.even(0, 0, 1e3, (9, 9), CRS)), "regrid the input"),
    ],
)
def test_mistakes_are_one_line(coarse: LatLonGrid, target: Target, words: str) -> None:
    """Each names what is wrong."""
    with pytest.raises(ValueError, match=words):
        build_domain(coarse, target, 64)
