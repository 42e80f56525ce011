"""forecast.cyclones: vorticity, great circles, strike probability and GeoJSON against closed forms and brute force."""

from __future__ import annotations

import json

import numpy as np
import pytest

from forecast.cyclones.detect import CENTRE
from forecast.cyclones.output import geojson, split_at_date_line, strike_probability, write_all
from forecast.cyclones.sphere import Windows, advance, bearing, continued, destination, mean_position, refine, vorticity
from forecast.cyclones.track import Track
from gen.grid import LatLonGrid, haversine

RADIUS_M = 6371e3
INIT = np.datetime64("2020-01-01T00", "h")


def unit(lat: float, lon: float) -> np.ndarray:
    phi, lam = np.deg2rad(lat), np.deg2rad(lon)
    return np.array([np.cos(phi) * np.cos(lam), np.cos(phi) * np.sin(lam), np.sin(phi)])


def vector_km(lat1: float, lon1: float, lat2: float, lon2: float) -> float:
    """Great-circle distance from the angle between unit vectors: independent of the haversine formula."""
    a, b = unit(lat1, lon1), unit(lat2, lon2)
    return float(6371.0 * np.arctan2(np.linalg.norm(np.cross(a, b)), a @ b))


def made(places: list[tuple[float, float]], member: int = 0, step: float = 6.0) -> Track:
    """A track through places."""
    track = Track(member=member)
    for k, (lat, lon) in enumerate(places):
        centre = np.zeros((), CENTRE)
        centre["lat"], centre["lon"], centre["msl"], centre["wind"] = lat, lon, 98000.0, np.nan
        track.add(step * k, centre[()])
    return track


@pytest.mark.parametrize(
    ("grid", "tolerance", "inner"),
    [(LatLonGrid.equiangular(121, 240, poles=True), 0.007, 0.0015), (LatLonGrid.gaussian(64, 128), 0.025, 0.0025)],
)
def test_vorticity_of_a_tilted_solid_rotation_is_twice_its_rate(
    grid: LatLonGrid, tolerance: float, inner: float
) -> None:
    """V = W n x r has zeta = 2 W n.r everywhere, also where the flow crosses a pole or the date line.

    Centred differences are wrong by 1/6 of the squared spacing (1e-4 and 4e-4), divided by cos phi towards the poles
    where two large terms cancel; on the pole itself the circulation is exact to 1e-4.
    """
    phi, lam = np.deg2rad(np.meshgrid(grid.latitude, grid.longitude, indexing="ij"))
    axis, rate = unit(32.0, 29.0), 1e-5
    r = np.stack([np.cos(phi) * np.cos(lam), np.cos(phi) * np.sin(lam), np.sin(phi)], -1)
    flow = RADIUS_M * rate * np.cross(axis, r)
    east = np.stack([-np.sin(lam), np.cos(lam), 0 * lam], -1)
    north = np.stack([-np.sin(phi) * np.cos(lam), -np.sin(phi) * np.sin(lam), np.cos(phi)], -1)
    error = np.abs(vorticity((flow * east).sum(-1), (flow * north).sum(-1), grid) - 2 * rate * (r @ axis)) / (2 * rate)
    assert error.max() < tolerance and error[5:-5].max() < inner
    if grid.latitude[0] == -90:
        assert error[[0, -1]].max() < 2e-4


def test_vorticity_of_a_region_is_that_of_the_globe() -> None:
    """Inside a box the same differences are taken."""
    grid, rng = LatLonGrid.equiangular(61, 120, poles=True), np.random.default_rng(0)
    u, v = rng.standard_normal((2, *grid.shape))
    box = LatLonGrid(grid.latitude[20:40], grid.longitude[30:60])
    inner = vorticity(u[20:40, 30:60], v[20:40, 30:60], box)[1:-1, 1:-1]
    np.testing.assert_allclose(inner, vorticity(u, v, grid)[21:39, 31:59], rtol=1e-9, atol=1e-14)


def test_ways_on_great_circles_agree_with_vectors() -> None:
    """destination lies at its distance, in its direction; continued lies on the same plane at the asked ratio."""
    rng = np.random.default_rng(1)
    for lat, lon, turn, km in zip(rng.uniform(-89, 89, 40), rng.uniform(-180, 180, 40), rng.uniform(0, 6.28, 40),
                                  rng.uniform(5, 3000, 40), strict=True):  # fmt: skip
        there = destination(lat, lon, turn, km)
        assert vector_km(lat, lon, *there) == pytest.approx(km, rel=1e-9)
        assert np.cos(bearing(lat, lon, *there) - turn) == pytest.approx(1.0, abs=1e-9)
        on = continued((lat, lon), there, 1.5)
        assert vector_km(*there, *on) == pytest.approx(1.5 * km, rel=1e-9)
        assert abs(np.cross(unit(lat, lon), unit(*there)) @ unit(*on)) < 1e-9
    assert advance(0.0, 179.0, 10.0, 0.0, 6.0) == pytest.approx((0.0, -179.0574), abs=1e-3), "216 km across 180 degrees"


def test_the_mean_position_is_the_mean_of_vectors() -> None:
    """Across the date line it is not near Greenwich; around a pole it is the pole; opposite points have none."""
    assert mean_position(np.array([10.0, 10.0]), np.array([179.0, -179.0]))[1] == pytest.approx(180.0)
    assert mean_position(np.array([80.0] * 4), np.array([0.0, 90.0, 180.0, 270.0]))[0] == pytest.approx(90.0)
    assert np.isnan(mean_position(np.array([0.0, 0.0]), np.array([0.0, 180.0]))).all()


@pytest.mark.parametrize("lat", [0.3, 31.2, -60.7, 85.2, -88.4])
def test_the_fit_finds_a_smooth_minimum_between_points(lat: float) -> None:
    """A Gaussian low of 400 km on 1.5 degrees: within 3 % of the spacing, wherever it is between the grid points."""
    grid = LatLonGrid.equiangular(121, 240, poles=True)
    windows, rows, columns = Windows(grid, 3.0), *np.meshgrid(grid.latitude, grid.longitude, indexing="ij")
    for lon in (-0.7, 0.2, 179.6):
        field = -np.exp(-((haversine(lat, lon, rows, columns) / 400) ** 2))
        row, column = np.unravel_index(int(np.argmin(field)), field.shape)
        assert haversine(lat, lon, *refine(field, windows, int(row), int(column))) < 0.03 * 166.8


def test_strike_probability_agrees_with_brute_force() -> None:
    """Against the distance of every point to 2000 points on each way, by unit vectors; shares of four members."""
    grid = LatLonGrid.equiangular(61, 120, poles=True)
    ways = [
        [(10, 170), (14, 177), (19, -175)],
        [(60, 20), (85, 60), (80, -150)],
        [(-5, -2), (-7, 3)],
        [(-5, 3), (-7, 0)],
    ]
    tracks = [made([(float(a), float(b)) for a, b in way], member) for member, way in enumerate(ways)]
    expected = np.zeros(grid.shape)
    points = np.stack([unit(a, b) for a in grid.latitude for b in grid.longitude])
    for way in ways:
        ends = [unit(*place) for place in way]
        dense = np.concatenate(
            [a + np.linspace(0, 1, 2000)[:, None] * (b - a) for a, b in zip(ends, ends[1:], strict=False)]
        )
        dense /= np.linalg.norm(dense, axis=1, keepdims=True)
        expected += ((points @ dense.T).max(axis=1) >= np.cos(250 / 6371.0)).reshape(grid.shape) / 4
    found = strike_probability(tracks, grid, 4, 250.0)
    assert (np.abs(found - expected) > 1e-9).mean() < 2e-4, "only points within 1 % of the radius may differ"
    assert found[10:50].max() == 0.5 and expected.max() == 0.5


def test_a_member_counts_once_however_often_its_storms_pass() -> None:
    """Two tracks of one member over the same place give 1 of 1, not 2."""
    grid = LatLonGrid.equiangular(61, 120, poles=True)
    strike = strike_probability([made([(0.0, 0.0), (3.0, 3.0)]), made([(3.0, 0.0), (0.0, 3.0)])], grid, 1, 300.0)
    assert strike.max() == 1.0


def test_the_date_line_cuts_where_the_great_circle_crosses() -> None:
    """Symmetric about 180 degrees the crossing lies poleward of both ends: tan phi = tan 40 / cos 10."""
    west, east = split_at_date_line(np.array([40.0, 40.0]), np.array([170.0, -170.0]))
    latitude = np.rad2deg(np.arctan(np.tan(np.deg2rad(40)) / np.cos(np.deg2rad(10))))
    assert west == [[170.0, 40.0], [180.0, pytest.approx(latitude, abs=1e-4)]]
    assert east == [[-180.0, west[-1][1]], [-170.0, 40.0]]


@pytest.mark.parametrize("lon", [[178, 180, -178], [-178, -180, 178], [179, -179, 179], [182, 181, 179], [10, 20, 30]])
def test_geojson_is_valid_and_never_crosses_the_date_line(lon: list[float]) -> None:
    """RFC 7946: longitudes in [-180, 180], at least two positions in a line, no step of more than 180 degrees."""
    shapely = pytest.importorskip("shapely.geometry")
    text = geojson([made([(10.0 + k, float(x)) for k, x in enumerate(lon)])], INIT, {"model": "m"})
    document = json.loads(text)
    (feature,) = document["features"]
    assert document["type"] == "FeatureCollection" and document["about"] == {"model": "m"}
    assert shapely.shape(feature["geometry"]).is_valid
    kind, lines = feature["geometry"]["type"], feature["geometry"]["coordinates"]
    for line in lines if kind == "MultiLineString" else [lines]:
        x = np.array(line)[:, 0]
        assert len(line) >= 2 and np.abs(x).max() <= 180 and np.abs(np.diff(x)).max() < 180
    assert feature["properties"]["times"][1] == "2020-01-01T06:00:00Z"
    assert feature["properties"]["max_wind_m_s"] == [None, None, None], "NaN is no JSON"


def test_a_lone_centre_is_a_point() -> None:
    """A line needs two positions."""
    (feature,) = json.loads(geojson([made([(10.0, 20.0)])], INIT, {}))["features"]
    assert feature["geometry"] == {"type": "Point", "coordinates": [20.0, 10.0]}


def test_a_file_that_fails_leaves_none_behind(tmp_path) -> None:
    """The first file is complete when the second fails; neither appears."""

    def fail(path: object) -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        write_all({tmp_path / "a.csv": lambda path: path.write_text("x"), tmp_path / "b.csv": fail})
    assert list(tmp_path.iterdir()) == []
