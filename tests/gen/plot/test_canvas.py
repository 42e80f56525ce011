"""What is drawn lies at the right place: read back from the artists of the axes."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.figure import Figure

from gen.grid import LatLonGrid, Region
from gen.plot.canvas import MapPanel
from gen.plot.projections import conic, equal_earth, stereographic

GRID = LatLonGrid.gaussian(48, 96)


def panel_of(grid, view="globe"):
    return MapPanel(Figure().subplots(), grid.latitude, grid.longitude, view)


def lines_of(contours):
    """Return the vertices of the contour lines, without the closing points."""
    parts = [path.to_polygons(closed_only=False) for path in contours.get_paths()]
    return [np.asarray(line) for part in parts for line in part]


@pytest.mark.parametrize("meridian", [-130.0, -40.0, 25.0, 160.0])
def test_a_contour_lies_at_its_longitude(meridian):
    """sin(lon - m) vanishes at m and m + 180: the zero line is these two meridians, to a hundredth of a grid cell."""
    panel = panel_of(GRID)
    field = np.sin(np.deg2rad(GRID.longitude - meridian))[None, :] + 0 * GRID.latitude[:, None]
    points = np.concatenate(lines_of(panel.contour(field, [0.0], "k", 1.0)))
    centre = panel.frame.centre
    lat = np.linspace(-89, 89, 2001)
    expected = []
    for lon in (meridian, meridian + 180):
        inside = (lon - panel.frame.west) % 360 + panel.frame.west
        expected.append(np.stack(equal_earth(centre)(np.full_like(lat, inside), lat), -1))
    distance = np.linalg.norm(points[:, None] - np.concatenate(expected)[None], axis=-1).min(axis=1)
    interior = np.abs(points[:, 1]) < 1.25  # the polar rows are averaged to one value
    assert np.abs(distance[interior]).max() < 0.01 * np.deg2rad(3.75) + 1e-3


def test_there_is_no_seam_at_the_date_line():
    """Contours of a zonal field reach both edges of the map exactly, at the same latitude on either side."""
    panel = panel_of(GRID)
    field = GRID.latitude[:, None] + 4 * np.cos(np.deg2rad(GRID.longitude - 180))[None, :]
    for line in lines_of(panel.contour(field, [-30.0, 0.0, 45.0], "k", 1.0)):
        left, right = line[line[:, 0].argmin()], line[line[:, 0].argmax()]
        assert left[0] == pytest.approx(-right[0], rel=1e-4) and left[1] == pytest.approx(right[1], abs=1e-9)
        rim = panel._boundary.get_xy()
        west = rim[rim[:, 0] < -1.0]  # the western rim, from the corner at the south pole to that at the north pole
        west = west[np.argsort(west[:, 1])]
        assert left[0] == pytest.approx(np.interp(left[1], west[:, 1], west[:, 0]), abs=1e-3)


def test_the_field_is_continued_to_both_edges_and_to_the_poles():
    """Both edge columns hold the mean of their neighbours, the pole rows the mean of the last row."""
    panel = panel_of(GRID)
    field = np.random.default_rng(0).standard_normal(GRID.shape)
    lon, lat, full = panel._grid.continued(field)
    assert np.array_equal(full[:, 0], full[:, -1])
    assert np.allclose(full[1:-1, 0], 0.5 * (full[1:-1, 1] + full[1:-1, -2]))
    assert lat[0] == -90 and lat[-1] == 90 and np.allclose(full[-1], field[-1].mean())
    assert np.all(np.diff(lon) > 0) and lon[-1] - lon[0] == pytest.approx(360, abs=0.01)
    wrapped = (lon[1:-1] + 1e-9) % 360
    assert np.array_equal(full[1:-1, 1:-1], field[:, np.searchsorted(GRID.longitude + 1, wrapped)])


def test_grids_with_pole_rows_are_not_continued_beyond_the_poles():
    """On a grid that holds the poles the latitudes stay."""
    grid = LatLonGrid.equiangular(19, 36, poles=True)
    assert np.array_equal(panel_of(grid)._grid.lat, grid.latitude)


def test_filled_contours_cover_the_whole_map():
    """The filled area equals that of the rim (Equal Earth: 4 pi) within 1 %."""
    panel = panel_of(GRID)
    filled = panel.shade(np.random.default_rng(0).standard_normal(GRID.shape), np.linspace(-1, 1, 5), "viridis")
    area = 0.0
    for path in filled.get_paths():
        for ring in path.to_polygons():
            x, y = ring.T
            area += 0.5 * float((x[:-1] * y[1:] - x[1:] * y[:-1]).sum())  # holes turn the other way
    assert abs(area) == pytest.approx(4 * np.pi, rel=0.01)


def test_the_northern_disc_is_a_circle_around_the_pole():
    """A field of latitude gives circles of the stereographic radius, closed across the date line."""
    panel = panel_of(GRID, "north")
    field = GRID.latitude[:, None] + 0 * GRID.longitude[None, :]
    (line,) = lines_of(panel.contour(field, [50.0], "k", 1.0))
    radius = np.hypot(*stereographic(True)(0.0, 50.0))
    assert np.allclose(np.hypot(*line.T), radius, rtol=2e-3)  # chords of a 3.75 degree grid
    angles = np.sort(np.arctan2(*line.T))
    assert np.diff(angles).max() < np.deg2rad(3.8)


def test_a_region_across_the_date_line_is_drawn_in_one_piece():
    """45-70 N, 160 E - 150 W: the columns ascend through 180, and a contour at 170 W lies there."""
    whole = LatLonGrid.equiangular(90, 180)
    grid = whole.subset(Region.parse("45,70,160,-150"))
    panel = panel_of(grid)
    assert not panel.frame.closed
    east_of_160 = (grid.longitude - 160) % 360
    (line,) = lines_of(panel.contour(np.broadcast_to(east_of_160, grid.shape), [30.0], "k", 1.0))
    f = panel.frame
    sixth = (f.north - f.south) / 6
    at = f.west + (190 - 160) - (grid.longitude[0] % 360 - 160)
    lat = np.linspace(f.south, f.north, line.shape[0])
    x, y = conic(f.centre, f.south + sixth, f.north - sixth)(np.full_like(lat, at), lat)
    nearest = np.linalg.norm(line[:, None] - np.stack([x, y], -1)[None], axis=-1).min(axis=1)
    assert nearest.max() < 0.02


def test_the_coast_is_drawn_inside_the_frame():
    """The coast's collection holds lines, clipped by the rim."""
    panel = panel_of(GRID)
    panel.finish("title")
    assert panel.axes.get_title() == "title"
    coast = max(panel.axes.collections, key=lambda c: len(c.get_paths()))
    assert len(coast.get_paths()) > 100 and coast.get_clip_path() is not None
