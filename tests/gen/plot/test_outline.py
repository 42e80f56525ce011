"""The coastline lies where the coasts are and is cut without jumps."""

from __future__ import annotations

import numpy as np
import pytest

from gen.grid import haversine
from gen.plot.make_outline import polylines
from gen.plot.outline import DATA, coastline


@pytest.mark.parametrize(
    ("name", "lat", "lon"),
    [
        ("Cape Agulhas", -34.8, 20.0),
        ("Strait of Gibraltar", 36.0, -5.6),
        ("North Cape", 71.2, 25.8),
        ("Cape Horn", -55.9, -67.3),
        ("Wellington", -41.3, 174.8),
        ("Uelen, beyond 180 degrees", 66.2, -169.8),
    ],
)
def test_known_places_of_the_coast_are_on_it(name, lat, lon):
    """Natural Earth's 110 m lines are generalised to about 1 degree: each place is within 120 km of the outline."""
    points = np.concatenate(coastline())
    assert haversine(lat, lon, points[:, 1], points[:, 0]).min() < 120


def test_no_coast_in_the_middle_of_oceans_and_continents():
    """Nothing is drawn within 500 km of these places; a wrong sign or scale would put something there."""
    points = np.concatenate(coastline())
    for lat, lon in [(0, -140), (-45, -120), (30, -45), (62, 100), (-30, 80), (23, 10)]:
        assert haversine(lat, lon, points[:, 1], points[:, 0]).min() > 500


@pytest.mark.parametrize("west", [-180.0, -181.875, 0.0, -20.0, 150.0])
def test_cutting_moves_lines_without_changing_them(west):
    """For any window: all longitudes inside it, no step above 180 degrees, and the total length kept to rounding."""

    def length(lines):
        return sum(float(np.hypot(*np.diff(line, axis=0).T).sum()) for line in lines)

    lines = coastline(west)
    assert all(line[:, 0].min() >= west - 1e-9 and line[:, 0].max() <= west + 360 + 1e-9 for line in lines)
    assert all(np.abs(np.diff(line[:, 0])).max() < 180 for line in lines)
    assert length(lines) == pytest.approx(length(coastline(-180.0)), rel=1e-9)


def test_the_data_file_is_small():
    """At most 60 KB in the package."""
    assert DATA.stat().st_size <= 60_000


def test_topojson_arcs_are_decoded_and_polygon_edges_dropped():
    """Deltas add up and scale; the artificial edge along the date line and a jump across it are no coast."""
    topology = {
        "transform": {"scale": [0.5, 0.25], "translate": [-180.0, -90.0]},
        "arcs": [[[360, 360], [2, 4], [2, -4]], [[720, 400], [0, 40], [-20, 0]], [[700, 400], [-690, 0], [2, 0]]],
    }
    lines = polylines(topology)
    assert np.array_equal(lines[0], [[0, 0], [1, 1], [2, 0]])
    assert np.array_equal(lines[1], [[180, 20], [170, 20]])
    assert np.array_equal(lines[2], [[-175, 10], [-174, 10]])
