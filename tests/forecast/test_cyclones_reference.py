"""forecast.cyclones: reference tracks of every format, and errors against them by an independent formula."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from forecast.cyclones.detect import CENTRE
from forecast.cyclones.errors import MEAN, matching, summarise, table, track_errors
from forecast.cyclones.reference import Reference, choose_storm, read_reference
from forecast.cyclones.track import Track

KNOT = 0.514444
INIT = np.datetime64("2011-08-21T00", "h")
HURDAT2 = """\
AL092011,              IRENE,      4,
20110821, 0000,  , TS, 15.0N,  59.0W,  45, 1006,  105,    0,    0,   45,    0,    0,    0,    0,    0,    0,    0,    0,
20110821, 0600,  , TS, 16.0N,  60.6W,  45, -999,  130,    0,    0,   80,    0,    0,    0,    0,    0,    0,    0,    0,
20110821, 1200,  , TS, 16.8N,  62.2W, -99, 1005,  130,    0,    0,   70,    0,    0,    0,    0,    0,    0,    0,    0,
20110828, 0935, L, TS, 39.4N,  74.4W,  60,  959,  230,  280,  160,  110,  150,  150,   80,   30,    0,    0,    0,    0,
AL012012,            UNNAMED,      1,
20120519, 0000,  , TS, 32.0N, 181.0W,  40, 1000, -999, -999, -999, -999, -999, -999, -999, -999, -999, -999, -999, -999,
"""
IBTRACS = """\
SID,SEASON,NAME,ISO_TIME,NATURE,LAT,LON,WMO_WIND,WMO_PRES,TRACK_TYPE,USA_WIND,USA_PRES
 ,Year, , , ,degrees_north,degrees_east,kts,mb, ,kts,mb
2018079S09162,2018,IRIS,2018-03-24 00:00:00,TS,-16.0,159.0,50,985,main,55,984
2018079S09162,2018,IRIS,2018-03-24 03:00:00,TS,-16.5,158.5, , ,main,60,980
2018079S09162,2018,IRIS,2018-03-24 03:00:00,TS,-16.9,158.9, , ,spur-merge,10,1005
2018100N10100,2018,NOT_NAMED,2018-04-10 00:00:00,TS,10.0,179.9,35, ,main, ,
"""


def storm(lat: list[float], lon: list[float], hours: list[float] | None = None) -> Reference:
    """A reference track every 6 hours."""
    steps = np.arange(len(lat)) * 6 if hours is None else np.array(hours)
    times = INIT.astype("datetime64[s]") + (steps * 3600).astype("timedelta64[s]")
    blank = np.full(len(lat), np.nan)
    return Reference(
        "X", "X 2011", times, np.array(lat, float), np.array(lon, float), np.full(len(lat), 980.0), blank, "test"
    )


def member(number: int, lat: list[float], lon: list[float], first: int = 0) -> Track:
    """A forecast track every 6 hours, 970 hPa."""
    track = Track(member=number)
    for k, (a, b) in enumerate(zip(lat, lon, strict=True)):
        centre = np.zeros((), CENTRE)
        centre["lat"], centre["lon"], centre["msl"], centre["wind"] = a, b, 97000.0, 30.0
        track.add(6.0 * (first + k), centre[()])
    return track


def test_hurdat2_is_read(tmp_path: Path) -> None:
    """Hemispheres, knots, missing values (-999, -99), times off the hour; a header begins a storm."""
    (tmp_path / "h.txt").write_text(HURDAT2)
    irene, unnamed = read_reference(tmp_path / "h.txt")
    assert (irene.name, irene.id, irene.times.size) == ("IRENE", "AL092011", 4)
    assert irene.times[-1] == np.datetime64("2011-08-28T09:35:00")
    assert irene.lon[0] == -59.0 and irene.lat[1] == 16.0
    np.testing.assert_allclose(irene.wind, KNOT * np.array([45, 45, np.nan, 60]), rtol=1e-5)
    np.testing.assert_array_equal(irene.pressure, [1006, np.nan, 1005, 959])
    assert unnamed.lon[0] == 179.0, "181 W lies east of the date line"


def test_ibtracs_tables_are_read(tmp_path: Path) -> None:
    """The line of units and spur tracks are left out; the US value fills in for a missing WMO value."""
    (tmp_path / "i.csv").write_text(IBTRACS)
    iris, other = read_reference(tmp_path / "i.csv")
    assert (iris.name, iris.id, iris.times.size, other.name) == ("IRIS", "2018079S09162", 2, "NOT_NAMED")
    np.testing.assert_allclose(iris.wind, KNOT * np.array([50, 60]), rtol=1e-5)
    np.testing.assert_array_equal(iris.pressure, [985, 980])
    assert np.isnan(other.pressure[0]) and other.lon[0] == pytest.approx(179.9)


def test_ibtracs_netcdf_is_read(tmp_path: Path) -> None:
    """Arrays over (storm, date_time) with texts as bytes, padded with missing values."""
    times = np.array([[b"2018-03-24 00:00:00", b"2018-03-24 03:00:00", b""], [b"2018-04-10 00:00:00", b"", b""]])
    lat = np.array([[-16.0, -16.5, np.nan], [10.0, np.nan, np.nan]])
    fields = {"lat": lat, "lon": lat + 170, "wmo_wind": lat + 60, "usa_pres": lat + 1000, "iso_time": times}
    data = xr.Dataset({name: (("storm", "date_time"), values) for name, values in fields.items()})
    data["sid"], data["name"] = ("storm", [b"2018079S09162", b"2018100N10100"]), ("storm", [b"IRIS", b"B"])
    data["track_type"] = ("storm", [b"main", b"main"])
    data.to_netcdf(tmp_path / "i.nc", engine="h5netcdf")
    iris, other = read_reference(tmp_path / "i.nc")
    assert (iris.name, iris.times.size, other.times.size) == ("IRIS", 2, 1)
    np.testing.assert_allclose(iris.wind, KNOT * np.array([44, 43.5]), rtol=1e-5)
    np.testing.assert_array_equal(iris.pressure, [984, 983.5])


def test_the_files_beside_the_repository_are_read(shared: Path) -> None:
    """Counts and extremes of the storms table; both CLIMADA tracks, one of which crosses the date line."""
    tracks = read_reference(shared / "data/tracks/storms.csv")
    assert sum(t.times.size for t in tracks) >= 20700 and all(
        (np.diff(t.times) > np.timedelta64(0)).all() for t in tracks
    )
    katrina = next(t for t in tracks if t.id == "Katrina 2005")
    assert katrina.pressure.min() == 902 and katrina.wind.max() == pytest.approx(150 * KNOT, rel=1e-5)
    zeta = [t for t in tracks if t.name == "Zeta" and str(t.times[0])[:4] == "2005"]
    assert len(zeta) == 1 and str(zeta[0].times[-1])[:4] == "2006", "a storm goes on into the new year"
    (simon,) = read_reference(shared / "data/tracks/1980052S16155.nc")
    (iris,) = read_reference(shared / "data/tracks/2018079S09162.nc")
    assert (simon.name, simon.id, iris.name) == ("SIMON", "1980052S16155", "IRIS")
    assert simon.lon.min() < -170 and simon.lon.max() > 170 and np.abs(iris.lon).max() < 163


def test_a_storm_is_chosen_by_name_year_or_place(tmp_path: Path) -> None:
    """By identifier, by name and year, or as the only one near the start; else all that fit are listed."""
    (tmp_path / "h.txt").write_text(HURDAT2)
    tracks = read_reference(tmp_path / "h.txt")
    period = (np.datetime64("2011-08-20", "s"), np.datetime64("2012-12-31", "s"))
    for name in ("irene", "AL092011", "Irene 2011"):
        assert choose_storm(tracks, name, period).id == "AL092011"
    assert choose_storm(tracks, None, period, (15.5, -59.0, np.datetime64("2011-08-21T00", "s"))).id == "AL092011"
    assert choose_storm(tracks, None, (period[0], np.datetime64("2011-12-31", "s"))).id == "AL092011"
    for name, words in ((None, "several storms.*AL012012"), ("Irma", "no storm 'Irma'"), ("Irene 2012", "no storm")):
        with pytest.raises(ValueError, match=words):
            choose_storm(tracks, name, period)
    with pytest.raises(ValueError, match="IRENE does not live"):
        choose_storm(tracks, "IRENE", (np.datetime64("2012-01-01", "s"), period[1]))


@pytest.mark.parametrize(
    "text", ["", "a,b\n1,2\n", "AL092011, IRENE, 1,\n20110821, 0000,  , TS, 15.0X, 59.0W, 45, 1006,\n"]
)
def test_what_is_no_track_file_is_refused(tmp_path: Path, text: str) -> None:
    """One line with the path."""
    (tmp_path / "x.txt").write_text(text)
    with pytest.raises(ValueError, match=r"x\.txt"):
        read_reference(tmp_path / "x.txt")


@pytest.mark.parametrize(("lat", "sign"), [(0.001, 1.0), (-0.001, -1.0)])
def test_along_is_ahead_and_cross_is_to_the_right_in_the_north(lat: float, sign: float) -> None:
    """Moving east along the equator: 1 degree ahead, 1 degree to the south (right; in the south it counts as minus)."""
    reference, degree = storm([lat, lat, lat], [0.0, 1.0, 2.0]), 111.195
    rows = track_errors([member(0, [lat, lat, lat - 1.0], [0.0, 2.0, 2.0])], reference, INIT)
    ahead, south = [r for r in rows if r.member == "0"][1:]
    assert (ahead.error_km, ahead.along_km) == (pytest.approx(degree, rel=1e-4),) * 2 and abs(ahead.cross_km) < 0.1
    assert south.error_km == pytest.approx(degree, rel=1e-4) and abs(south.along_km) < 0.1
    assert south.cross_km == pytest.approx(sign * degree, rel=1e-4)


def test_errors_agree_with_vector_geometry() -> None:
    """d is the angle between unit vectors; sin(cross / a) is the distance from the plane of the observed motion."""
    rng = np.random.default_rng(2)

    def unit(a: float, b: float) -> np.ndarray:
        phi, lam = np.deg2rad(a), np.deg2rad(b)
        return np.array([np.cos(phi) * np.cos(lam), np.cos(phi) * np.sin(lam), np.sin(phi)])

    for _ in range(30):
        lat, lon = rng.uniform(5, 80), rng.uniform(-180, 180)
        before = (lat - rng.uniform(0.5, 2), lon + rng.uniform(-2, 2))
        place = (lat + rng.uniform(-4, 4), lon + rng.uniform(-4, 4))
        reference = storm([before[0], lat], [before[1], lon])
        row = track_errors([member(0, [*before[:1], place[0]], [*before[1:], place[1]])], reference, INIT)[2]
        a, b, p = unit(*before), unit(lat, lon), unit(*place)
        assert row.error_km == pytest.approx(6371 * np.arctan2(np.linalg.norm(np.cross(b, p)), b @ p), rel=1e-6)
        left = np.cross(a, b) / np.linalg.norm(np.cross(a, b))
        assert row.cross_km == pytest.approx(-6371 * np.arcsin(left @ p), rel=1e-4, abs=1e-3)
        assert row.along_km == pytest.approx(6371 * np.arctan2(p @ np.cross(left, b), p @ b), rel=1e-4, abs=1e-3)


def test_the_mean_is_over_the_members_that_have_the_storm() -> None:
    """Two members 1 degree to either side of a date-line fix: a mean without error; counts and samples are told."""
    reference = storm([10.0, 10.0, 10.0], [179.0, 180.0, -179.0])
    tracks = [
        member(0, [10.0, 10.0, 10.0], [178.0, 179.0, 180.0]),
        member(1, [10.0, 10.0], [180.0, -179.0]),
        member(2, [12.0], [-179.0], first=2),
    ]
    rows = track_errors(tracks, reference, INIT)
    found = summarise(rows)
    assert [s.members for s in found] == [2, 2, 2]
    assert found[0].error_km == pytest.approx(109.5, abs=0.1) and found[0].mean_km < 1.0
    assert found[0].spread_km == pytest.approx(109.5, abs=0.1) and found[0].pressure_hpa == pytest.approx(-10.0)
    assert found[2].same_km == pytest.approx(109.5, abs=0.1), "only member 0 has the storm at every lead time"
    assert np.isnan(found[0].wind_m_s), "the reference has no wind"
    text = "\n".join(table(rows, reference, 3))
    assert "2 to 2" in text and "the 1 that have it at every lead time" in text
    assert [r.member for r in rows].count(MEAN) == 3


def test_each_member_brings_the_track_of_this_storm() -> None:
    """Of two tracks the nearer one in the first day; none farther than 500 km; times without a fix are not compared."""
    reference = storm([10.0] * 5, [0.0, 1.0, 2.0, 3.0, 4.0])
    near, far = member(0, [11.0] * 5, [0.0, 1.0, 2.0, 3.0, 4.0]), member(0, [13.0] * 5, [0.0, 1.0, 2.0, 3.0, 4.0])
    lost = member(1, [20.0] * 5, [0.0] * 5)
    assert matching([far, near, lost], reference, INIT) == [near]
    sparse = storm([10.0, 10.0], [0.0, 2.0], hours=[0, 9])
    assert {r.lead_hours for r in track_errors([near], sparse, INIT)} == {0.0}
    assert table([], reference, 2)[-1].startswith("no forecast position")
