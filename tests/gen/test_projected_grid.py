"""Projected grids lie where their makers say, and the projection is what its name promises."""

from __future__ import annotations

import numpy as np
import pytest

from gen.projected_grid import PolarStereographic, ProjectedGrid

RADOLAN = "+proj=stere +lat_0=90 +lat_ts=60 +lon_0=10 +R=6370040"
KNMI = "+proj=stere +lat_0=90 +lon_0=0.0 +lat_ts=60.0 +a=6378.137 +b=6356.752 +x_0=0 +y_0=0"


def test_radolan_corners_are_those_published() -> None:
    """DWD gives the corners of the 900 km grid to 1e-4 degrees: 46.9526 N 3.5889 E ... 54.7405 N 15.7208 E."""
    corners = {
        (-523462.0, -4658645.0): (46.9526, 3.5889),
        (-523462.0, -3758645.0): (54.5877, 2.0715),
        (376538.0, -4658645.0): (47.0705, 14.6209),
        (376538.0, -3758645.0): (54.7405, 15.7208),
    }
    for point, place in corners.items():
        np.testing.assert_allclose(PolarStereographic.parse(RADOLAN).inverse(*point), place, atol=2e-4)


def test_knmi_corners_are_those_in_its_files() -> None:
    """The product corners on an ellipsoid, stated to 1e-3 degrees: a pixel is 0.01; kilometres become metres."""
    projection = PolarStereographic.parse(KNMI)
    assert projection.semi_major == pytest.approx(6378137.0)
    for (x, y), place in {
        (0.0, -4415e3): (49.362, 0.0),
        (0.0, -3650e3): (55.974, 0.0),
        (700e3, -3650e3): (55.389, 10.856),
        (700e3, -4415e3): (48.895, 9.009),
    }.items():
        np.testing.assert_allclose(projection.inverse(x, y), place, atol=1e-3)


@pytest.mark.parametrize(
    "text",
    [
        RADOLAN,
        KNMI,
        "+proj=stere +lat_0=90 +lat_ts=60 +lon_0=-105 +R=6371200 +x_0=1000 +y_0=-2000",
        "+proj=stere +lat_0=-90 +lat_ts=-71 +lon_0=0 +ellps=WGS84",
        "+proj=stere +lat_0=90 +lat_ts=90 +lon_0=170 +datum=WGS84",
        "+proj=stere +lat_0=90 +lon_0=25 +a=6378137 +rf=298.257223563",
    ],
)
def test_inverse_undoes_forward_and_the_text_says_it_all(text: str) -> None:
    """Round trips to 1e-9 degrees (0.1 mm), in both hemispheres and across the date line, also from the own text."""
    projection = PolarStereographic.parse(text)
    sign = np.copysign(1.0, projection.true_latitude)
    latitude, longitude = np.meshgrid(sign * np.linspace(20, 89, 12), np.linspace(-180, 179, 25))
    for made in (projection, PolarStereographic.parse(projection.text)):
        back = made.inverse(*projection.forward(latitude, longitude))
        np.testing.assert_allclose(back[0], latitude, atol=1e-9)
        np.testing.assert_allclose((back[1] - longitude + 180) % 360 - 180, 0.0, atol=1e-8)


@pytest.mark.parametrize("text", [RADOLAN, KNMI, "+proj=stere +lat_0=-90 +lat_ts=-71 +lon_0=0 +ellps=WGS84"])
def test_the_projection_is_conformal_and_true_at_its_latitude(text: str) -> None:
    """Steps north and east have equal scales everywhere, right angles, and scale one at the true latitude."""
    p = PolarStereographic.parse(text)
    e2, h = p.eccentricity**2, 1e-6
    for latitude in (p.true_latitude, p.true_latitude * 0.7):
        phi = np.deg2rad(latitude)
        meridian = p.semi_major * (1 - e2) / (1 - e2 * np.sin(phi) ** 2) ** 1.5 * np.deg2rad(2 * h)
        parallel = p.semi_major * np.cos(phi) / np.sqrt(1 - e2 * np.sin(phi) ** 2) * np.deg2rad(2 * h)
        north = np.subtract(p.forward(latitude + h, 33.0), p.forward(latitude - h, 33.0)) / meridian
        east = np.subtract(p.forward(latitude, 33.0 + h), p.forward(latitude, 33.0 - h)) / parallel
        assert np.hypot(*north) == pytest.approx(np.hypot(*east), rel=1e-6)  # rounding of differences of 1e6 m
        assert north @ east == pytest.approx(0.0, abs=1e-6)
        if latitude == p.true_latitude:
            assert np.hypot(*north) == pytest.approx(1.0, rel=1e-6)


def test_a_grid_knows_its_edges_and_survives_json() -> None:
    """Edges are half a step outside; a round trip through plain values gives an equal grid."""
    grid = ProjectedGrid.even(-500.0, 2000.0, 1000.0, (3, 4), RADOLAN)
    np.testing.assert_allclose(grid.x_bounds(), [-1000, 0, 1000, 2000, 3000])
    np.testing.assert_allclose(grid.y_bounds(), [1500, 2500, 3500, 4500])
    assert ProjectedGrid.from_dict(grid.to_dict()) == grid
    assert grid.window(slice(1, 3), slice(0, 2)) == ProjectedGrid.even(-500.0, 3000.0, 1000.0, (2, 2), RADOLAN)


def test_coarse_cells_start_in_the_corner() -> None:
    """Cells 2.5 times as wide: ten columns give four whole cells with the same western edge, nine only three."""
    coarse = ProjectedGrid.even(0.0, 0.0, 1000.0, (9, 10), RADOLAN).coarsen(2.5)
    assert coarse.shape == (3, 4)
    np.testing.assert_allclose(coarse.x_bounds(), -500 + 2500 * np.arange(5))
    with pytest.raises(ValueError, match="factor must be at least 1; got 0.5"):
        ProjectedGrid.even(0.0, 0.0, 1000.0, (9, 10), RADOLAN).coarsen(0.5)


def test_bad_axes_and_unknown_projections_are_refused() -> None:
    """One line each, naming the value."""
    with pytest.raises(ValueError, match="x must be evenly spaced; its steps are 1 to 2 m"):
        ProjectedGrid(np.array([0.0, 1.0, 3.0]), np.array([0.0, 1.0]), RADOLAN)
    with pytest.raises(ValueError, match="only polar stereographic"):
        ProjectedGrid.even(0.0, 0.0, 1.0, (2, 2), "+proj=utm +zone=33")
    with pytest.raises(ValueError, match="states no earth"):
        PolarStereographic.parse("+proj=stere +lat_0=90 +lon_0=0")
