"""forecast.cyclones: analytic vortices are found where they were put, and nothing else is."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import cyclone_world as cw
import numpy as np
import pytest
import xarray as xr
from PIL import Image

from forecast.cyclones import run
from forecast.cyclones.criteria import CRITERIA, Criteria, choose_criteria, needed_channels
from forecast.cyclones.detect import Detector
from forecast.cyclones.run import Request, track_file
from forecast.cyclones.track import Track, follow, join
from gen.cli import main
from gen.data.variables import parse_channel
from gen.grid import LatLonGrid, haversine

HALF_SPACING_KM = 0.75 * 111.2
HOURS = list(range(0, 97, 6))
KATRINA_START = np.datetime64("2005-08-25T00", "h")


def detector(criteria: Criteria, codes: tuple[str, ...] = cw.CODES, grid: LatLonGrid = cw.GRID) -> Detector:
    use = needed_channels(criteria, [parse_channel(c) for c in codes], steering=True)
    return Detector(grid, criteria, {key: tuple(c.code for c in found) for key, found in use.items()})


def tracks_of(
    storms: list[Any], criteria: Criteria, hours: list[int], codes: tuple[str, ...] = ("msl",)
) -> list[Track]:
    """Tracks of a world that is never written."""
    find = detector(criteria, codes)
    return join(((h, find.centres(cw.world(storms, h, 0, codes))) for h in hours), criteria)


def worst_km(track: Track, where: Any) -> float:
    """The largest distance of a track from the path of the storm."""
    return max(float(haversine(*track.position(k), *where(h))) for k, h in enumerate(track.hours))


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def katrina(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Three members, a vortex on Katrina's path from hour 12 to 72, moved by 0, 1 degree north, 2 degrees west."""
    from forecast.cyclones.reference import read_reference

    track = next(t for t in read_reference(shared / "data/tracks/storms.csv") if t.id == "Katrina 2005")
    hours = (track.times - KATRINA_START) / np.timedelta64(3600, "s")
    near = (hours >= 12) & (hours <= 72)
    shifts = [(0.0, 0.0), (1.0, 0.0), (0.0, -2.0)]
    storm = cw.Storm(cw.along(hours[near], track.lat[near], track.lon[near]), member_shift=shifts)
    folder = tmp_path_factory.mktemp("katrina")
    file = cw.write(folder / "f.nc", [storm], HOURS[:15], members=3, init=KATRINA_START)
    options = ["--reference", str(shared / "data/tracks/storms.csv"), "--storm", "katrina 2005", "--quiet"]
    assert main(["track", str(file), *options, "--no-figure", "--out", str(folder / "auto")]) == 0
    start = "{:.2f},{:.2f},2005-08-25T12".format(*storm.where(12))
    assert main(["track", str(file), *options, "--start", start, "--out", str(folder / "followed")]) == 0
    return folder, file, storm


@pytest.mark.parametrize("way", ["auto", "followed"])
def test_a_real_track_is_recovered_in_every_member(katrina: Any, way: str) -> None:
    """Centres lie within half a grid spacing of the vortices (the fit is better than the grid), each member its own."""
    folder, _, storm = katrina
    rows = rows_of(folder / f"{way}_tracks.csv")
    assert {row["member"] for row in rows} == {"0", "1", "2"} and {row["track"] for row in rows} == {"1"}
    away = [
        float(haversine(float(r["lat"]), float(r["lon"]), *storm.position(float(r["lead_hours"]), int(r["member"]))))
        for r in rows
    ]
    assert max(away) < HALF_SPACING_KM and np.mean(away) < 0.5 * HALF_SPACING_KM


def test_genesis_and_end_are_those_of_the_vortex(katrina: Any) -> None:
    """From hour 12 to 72, every 6 h, with valid times in UTC; all criteria are met at the centre."""
    rows = [r for r in rows_of(katrina[0] / "auto_tracks.csv") if r["member"] == "1"]
    assert [float(r["lead_hours"]) for r in rows] == list(range(12, 73, 6))
    assert rows[0]["time"] == "2005-08-25T12:00:00Z"
    assert all(r["closed_contour"] == r["warm_core"] == r["wind_reached"] == "1" for r in rows)
    assert {r["vorticity_reached"] for r in rows} == {""}, "tempest has no vorticity threshold"
    assert min(float(r["vorticity_s-1"]) for r in rows) > 3.5e-5


def test_errors_are_those_that_were_put_in(katrina: Any) -> None:
    """A member moved by (1, 0) degrees is 111 km off; the mean position's error is that of the mean shift."""
    rows = [r for r in rows_of(katrina[0] / "auto_errors.csv") if r["member"] in ("0", "1", "mean")]
    by = {m: np.array([float(r["error_km"]) for r in rows if r["member"] == m]) for m in ("0", "1", "mean")}
    assert by["0"].max() < HALF_SPACING_KM and np.abs(by["1"] - 111.2).max() < HALF_SPACING_KM
    for r in rows:
        d, a, c = (float(r[name]) for name in ("error_km", "along_km", "cross_km"))
        assert d == pytest.approx(np.hypot(a, c), rel=1e-3, abs=0.01), "nearly flat at these distances"


def test_the_strike_map_and_figure_are_written(katrina: Any) -> None:
    """One where all members pass, zero far away, attributes that say the radius; a picture with content."""
    with xr.open_dataset(katrina[0] / "followed_strike.nc") as data:
        strike = data["strike_probability"]
        assert strike.dims == ("latitude", "longitude") and strike.attrs["radius_km"] == 120.0
        assert {0.0, 1.0} <= set(np.round(strike.values.ravel() * 3, 5)) <= {0.0, 1.0, 2.0, 3.0}, "thirds of members"
        assert strike.sel(latitude=-30, longitude=99).item() == 0.0 and strike.values.max() >= 1 / 3
        assert data.attrs["criteria"].startswith("{'name': 'tempest'") and data.attrs["forecast"] == "f.nc"
    with Image.open(katrina[0] / "followed_tracks.png") as image:
        assert "tempest" in image.info["Description"]
        assert len(np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0)) > 50


def test_small_blocks_give_the_same_tracks(katrina: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """How many lead times are read at once changes nothing."""
    monkeypatch.setattr(run, "BLOCK_BYTES", 3_000_000)
    track_file(Request(katrina[1], members=(2,), out=tmp_path / "x", figure=False))
    expected = [r for r in rows_of(katrina[0] / "auto_tracks.csv") if r["member"] == "2"]
    assert rows_of(tmp_path / "x_tracks.csv") == expected


def test_a_storm_is_followed_across_the_date_line(shared: Path, tmp_path: Path) -> None:
    """SIMON 1980 in the South Pacific: within half a spacing on both sides; its line is cut at 180 degrees."""
    from forecast.cyclones.reference import read_reference

    (simon,) = read_reference(shared / "data/tracks/1980052S16155.nc")
    init = np.datetime64("1980-03-02T00", "h")
    hours = (simon.times - init) / np.timedelta64(3600, "s")
    path = cw.along(hours, simon.lat, simon.lon)
    last = int(hours[-1]) // 6 * 6
    file = cw.write(tmp_path / "f.nc", [cw.Storm(path)], range(0, last + 1, 6), init=init)
    options = ["--start", "reference", "--reference", str(shared / "data/tracks/1980052S16155.nc"), "--no-figure"]
    assert main(["track", str(file), *options, "--quiet"]) == 0
    rows = rows_of(tmp_path / "f_tracks.csv")
    lon = np.array([float(r["lon"]) for r in rows])
    away = [haversine(float(r["lat"]), float(r["lon"]), *path(float(r["lead_hours"]))) for r in rows]
    assert len(rows) == last // 6 + 1 and (lon > 0).any() and (lon < 0).any() and max(away) < HALF_SPACING_KM
    feature = json.loads((tmp_path / "f_tracks.geojson").read_text())["features"][0]
    assert feature["geometry"]["type"] == "MultiLineString"
    west, east = feature["geometry"]["coordinates"]
    assert west[-1][0] == 180.0 and east[0][0] == -180.0 and west[-1][1] == east[0][1]
    errors = [float(r["error_km"]) for r in rows_of(tmp_path / "f_errors.csv") if r["member"] == "0"]
    assert len(errors) == len(rows) and max(errors) < HALF_SPACING_KM


def test_a_low_that_crosses_the_pole_is_one_track() -> None:
    """Over the pole from 20 E to 160 W; the pole is a place like any other."""
    lat = [80 + 2.0 * k if k <= 5 else 100 - 2.0 * k for k in range(11)]
    places = [(min(p, 89.9), 20.0 if k <= 5 else -160.0) for k, p in enumerate(lat)]
    storm = cw.Storm(lambda h: places[int(h) // 6], radius_km=300.0)
    (track,) = tracks_of([storm], choose_criteria("pressure"), list(range(0, 61, 6)))
    assert len(track.hours) == 11 and worst_km(track, storm.where) < HALF_SPACING_KM


def test_two_storms_near_each_other_stay_two() -> None:
    """8 degrees apart on parallel ways, the southern one weaker: two tracks, each on its own storm."""
    north = cw.Storm(lambda h: (24.0 + h / 24, -50.0 - h / 8))
    south = cw.Storm(lambda h: (16.0 + h / 24, -50.0 - h / 8), drop=2500.0)
    tracks = tracks_of([north, south], choose_criteria("pressure"), HOURS[:9])
    assert [len(t.hours) for t in tracks] == [9, 9]
    assert worst_km(tracks[0], north.where) < HALF_SPACING_KM and worst_km(tracks[1], south.where) < HALF_SPACING_KM


def test_the_first_guess_keeps_storms_apart_that_cross() -> None:
    """Two storms exchange their latitudes 7 degrees apart; positions alone would swap them, displacements do not."""
    one = cw.Storm(lambda h: (20.0 + h / 6, -60.0 + h / 6))
    two = cw.Storm(lambda h: (28.0 - h / 6, -53.0 + h / 6), drop=3000.0)
    criteria = choose_criteria("pressure")
    find = detector(criteria, ("msl",))
    frames = [(float(h), cw.world([one, two], h, 0, ("msl",))) for h in HOURS[:9]]
    finders = ((h, lambda near, maps=maps: find.centres(maps, near)) for h, maps in frames)
    track = follow(finders, (28.0, -53.0, 0.0), criteria)
    assert track is not None and len(track.hours) == 9 and worst_km(track, two.where) < HALF_SPACING_KM


@pytest.mark.parametrize(("core", "found"), [(4.0, 1), (-4.0, 0)])
@pytest.mark.parametrize("name", ["tempest", "vitart"])
def test_a_cold_core_is_refused(name: str, core: float, found: int) -> None:
    """The same vortex with warm and with cold air above it; pressure and vorticity are equal."""
    codes = (*cw.CODES, "z200", "z1000", "t200", "t300", "t500")
    maps = cw.world([cw.Storm(lambda h: (20.0, -60.0), core=core)], 0, 0, codes, noise=0.0)
    assert len(detector(CRITERIA[name], codes).centres(maps)) == found
    followed = detector(CRITERIA[name], codes).centres(maps, (20.0, -60.0, 300.0))
    assert followed["closed"].tolist() == [1] and followed["core"].tolist() == [found], "flagged when followed"


def test_an_open_trough_is_no_closed_contour() -> None:
    """A minimum of 1 hPa in a valley that falls towards the pole by 3 hPa: no contour of 2 hPa closes."""
    rows, columns = np.meshgrid(cw.GRID.latitude, cw.GRID.longitude, indexing="ij")
    km = haversine(30.0, 180.0, rows, columns)
    ridge = 101000 + 30 * np.abs(columns - 180.0) - 60 * np.clip(rows - 34, 0, 10)
    maps = {"msl": ridge - 100 * np.exp(-((km / 200) ** 2))}
    find = detector(choose_criteria("pressure"), ("msl",))
    near = find.centres(maps, (30.0, 180.0, 300.0))
    assert near.size == 1 and near["closed"][0] == 0
    assert not any(abs(c["lat"] - 30) < 2 and abs(abs(c["lon"]) - 180) < 2 for c in find.centres(maps))


def test_gaps_are_bridged_and_long_ones_end_a_track() -> None:
    """Gone for 18 h it is the same storm, 30 h later it is a new one (at most 24 h between centres)."""
    for away, count in ((range(30, 48), 1), (range(30, 61), 2)):
        storm = cw.Storm(lambda h, away=away: None if h in away else (20.0, -60.0 - h / 20))
        tracks = tracks_of([storm], choose_criteria("pressure", ["min_hours=18"]), list(range(0, 97, 6)))
        assert len(tracks) == count


def test_a_jump_that_no_storm_makes_begins_another_track() -> None:
    """12 degrees in 6 hours exceeds the range of 8 degrees."""
    storm = cw.Storm(lambda h: (20.0, -60.0 if h < 36 else -72.8))
    tracks = tracks_of([storm], choose_criteria("pressure", ["min_hours=24"]), list(range(0, 67, 6)))
    assert [(t.hours[0], t.hours[-1]) for t in tracks] == [(0, 30), (36, 66)]


def test_weak_wind_and_high_latitude_are_no_tropical_storm() -> None:
    """tempest asks for 10 m/s and 50 degrees at ten times; the same storm passes with these two left out."""
    weak = cw.Storm(lambda h: (20.0, -60.0), drop=600.0, radius_km=500.0)
    high = cw.Storm(lambda h: (56.0, -30.0))
    hours = list(range(0, 61, 6))
    for storm, left_out in ((weak, "min_wind=none"), (high, "max_latitude=none")):
        assert tracks_of([storm], CRITERIA["tempest"], hours, cw.CODES) == []
        assert len(tracks_of([storm], choose_criteria("tempest", [left_out]), hours, cw.CODES)) == 1


def test_no_storm_gives_empty_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Header only, no features, a map of zeros, a figure that says so, exit code 0."""
    file = cw.write(tmp_path / "f.nc", [], [0, 6], members=2, codes=("msl",), noise=0.0,
                    grid=LatLonGrid.equiangular(30, 60))  # fmt: skip
    assert main(["track", str(file), "--criteria", "pressure"]) == 0
    assert "0 of 2 members" in capsys.readouterr().out
    assert rows_of(tmp_path / "f_tracks.csv") == []
    assert json.loads((tmp_path / "f_tracks.geojson").read_text())["features"] == []
    with xr.open_dataset(tmp_path / "f_strike.nc") as data:
        assert (data["strike_probability"] == 0).all()
    assert (tmp_path / "f_tracks.png").exists()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files for what can go wrong: pressure only, no pressure, daily steps, a latent store."""
    folder, grid = tmp_path_factory.mktemp("small"), LatLonGrid.equiangular(12, 24)
    cw.write(folder / "msl.nc", [], [0, 6], codes=("msl",), grid=grid)
    cw.write(folder / "z.nc", [], [0, 6], codes=("z500",), grid=grid)
    cw.write(folder / "daily.nc", [], [0, 24], codes=("msl",), grid=grid)
    cw.write(folder / "demo.nc", [], [0, 6], codes=("msl", "z250", "z500", "10u", "10v"), grid=grid)
    (folder / "latent.zarr" / "latent").mkdir(parents=True)
    (folder / "tracks.csv").write_text("a,b\n1,2\n")
    return folder


@pytest.mark.parametrize(
    ("file", "options", "words"),
    [
        ("z.nc", [], ["no sea-level pressure", "z500"]),
        ("msl.nc", [], ["tempest", "z300", "10u", "--criteria pressure"]),
        ("demo.nc", [], ["lacks z300", "layer=250,500"]),
        ("daily.nc", ["--criteria", "pressure"], ["steps of 24 h", "12 h"]),
        ("latent.zarr", ["--criteria", "pressure"], ["latents", "gen decode"]),
        ("msl.nc", ["--criteria", "tempets"], ["did you mean tempest"]),
        ("msl.nc", ["--criteria", "pressure", "--threshold", "min_hour=3"], ["did you mean min_hours"]),
        ("msl.nc", ["--criteria", "pressure", "--threshold", "min_hours=long"], ["min_hours=long"]),
        ("msl.nc", ["--criteria", "pressure", "--threshold", "min_hours=-1"], ["must be a number from 0"]),
        ("msl.nc", ["--criteria", "pressure", "--start", "20,30"], ["LAT,LON,TIME"]),
        ("msl.nc", ["--criteria", "pressure", "--start", "95,30,2005-08-24"], ["LAT,LON,TIME"]),
        (
            "msl.nc",
            ["--criteria", "pressure", "--start", "-20,30,2006-01-01"],
            ["outside the forecast", "2005-08-24T00"],
        ),
        ("msl.nc", ["--criteria", "pressure", "--start", "reference"], ["--reference"]),
        ("msl.nc", ["--criteria", "pressure", "--storm", "Katrina"], ["--reference"]),
        ("msl.nc", ["--criteria", "pressure", "--members", "0,4"], ["no member 4"]),
        ("msl.nc", ["--criteria", "pressure", "--radius", "0"], ["radius"]),
        ("msl.nc", ["--criteria", "pressure", "--init", "2006-01-01"], ["no forecast from 2006"]),
        ("msl.nc", ["--criteria", "pressure", "--reference", "tracks.csv"], ["tracks.csv", "not a track file"]),
    ],
)
def test_wrong_input_is_one_line_and_writes_nothing(
    small: Path, file: str, options: list[str], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(small.rglob("*"))
    options = [str(small / o) if o == "tracks.csv" else o for o in options]
    assert main(["track", str(small / file), *options]) == 2
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert told.startswith("error: ") and all(word in told for word in words), told
    assert sorted(small.rglob("*")) == before


def test_another_layer_asks_for_the_same_warmth() -> None:
    """58.8 m2 s-2 of 300-500 hPa is R ln(500/300) T' with T' = 0.401 K; 250-500 hPa needs R ln 2 T'."""
    (core,) = choose_criteria("tempest", ["layer=250,500"]).cores
    assert core.levels_hpa == (250, 500)
    assert core.fall / np.log(2) == pytest.approx(58.8 / np.log(500 / 300), rel=1e-12)
