"""Real radar, satellite and analysis files: sizes, places, times, units and peaks are what their makers state."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from downscaling.sources.base import PrecipitationSource
from downscaling.sources.opening import open_precipitation
from gen.data.sources import SourceError
from gen.grid import LatLonGrid
from gen.projected_grid import PolarStereographic, ProjectedGrid

HOURLY, DAILY = "raa01-rw_10000-1408102050-dwd---bin.gz", "raa01-sf_10000-1408102050-dwd---bin.gz"


@pytest.fixture(scope="module")
def rain(shared: Path) -> Path:
    """Return the folder of precipitation samples; skip where it is not."""
    folder = shared / "data" / "precip"
    if not folder.is_dir():
        pytest.skip("no precipitation samples in the folder of reference data")
    return folder


def corner(source: PrecipitationSource) -> tuple[float, float]:
    """Return latitude and longitude of the outer south-western corner of a plane."""
    assert isinstance(source.grid, ProjectedGrid)
    place = PolarStereographic.parse(source.grid.crs).inverse(source.grid.x_bounds()[0], source.grid.y_bounds()[0])
    return float(place[0]), float(place[1])


def test_imerg_day_of_the_geotiff_sample(rain: Path) -> None:
    """20-60 N, 180-30 W at 0.1 degrees; counts of 0.1 mm up to 4619 in a day: 461.9 mm, 19.25 mm/h."""
    source = open_precipitation(rain / "gpm_1d.20240617.tif")
    assert isinstance(source, PrecipitationSource) and isinstance(source.grid, LatLonGrid)
    assert source.grid.shape == (400, 1500) and source.interval_hours == 24
    assert source.grid.latitude_bounds()[[0, -1]] == pytest.approx([20, 60])
    assert source.grid.longitude_bounds()[[0, -1]] == pytest.approx([180, 330])
    assert source.times()[0] == np.datetime64("2024-06-18T00:00")
    values = source.read(0)
    assert values.dtype == np.float32 and values.max() * 24 == pytest.approx(461.9, rel=1e-6)
    assert "IMERG" in source.attribution and not source.synthetic


def test_radolan_hour_and_day(rain: Path) -> None:
    """900 x 900 cells of 1 km with the corner at 46.9526 N, 3.5889 E; a day's mean rate is below its wettest hour's."""
    hour, day = (open_precipitation(rain / "radolan" / name) for name in (HOURLY, DAILY))
    assert hour.grid == day.grid and hour.grid.shape == (900, 900)
    assert corner(hour) == pytest.approx((46.9526, 3.5889), abs=2e-4)
    assert (hour.interval_hours, day.interval_hours) == (1, 24)
    assert hour.times()[0] == day.times()[0] == np.datetime64("2014-08-10T20:50")
    one, all_day = hour.read(0), day.read(0)
    assert np.nanmax(one) == pytest.approx(38.6, rel=1e-6) and np.nanmax(all_day) * 24 == pytest.approx(78.1, rel=1e-4)
    assert 0.15 < np.isnan(one).mean() < 0.25 and np.isnan(one[0, 0])  # outside the reach of the radars
    both = np.isfinite(one) & np.isfinite(all_day)
    assert (one[both] <= 24 * all_day[both] + 0.11).mean() > 0.999  # the hour is part of the day; adjusted apart


def test_radolan_weeks_count_in_tens_of_minutes(rain: Path) -> None:
    """INT1008 of W1 is a week, INT2016 of W2 two: the radar lists name 7 and 14 days."""
    for name, days in (("w1", 7), ("w2", 14)):
        source = open_precipitation(rain / "radolan" / f"raa01-{name}_10000-1408110550-dwd---bin.gz")
        assert source.interval_hours == 24 * days


def test_a_damaged_radolan_file_is_refused(rain: Path) -> None:
    """The W3 sample went through a text-mode transfer: bytes too many, one line that says so."""
    with pytest.raises(SourceError, match=r"holds 1626527 bytes of data where 1620000 belong.*text-mode"):
        open_precipitation(rain / "radolan" / "raa01-w3_10000-1408110550-dwd---bin.gz")


def test_radolan_ascii_is_on_the_same_grid(rain: Path) -> None:
    """24 hours of 2022-10-18 on the binary files' grid (to a metre), in tenths of a millimetre."""
    source = open_precipitation(rain / "radolan" / "RW-20221018.tar.gz")
    binary = open_precipitation(rain / "radolan" / HOURLY)
    assert source.grid == binary.grid and len(source.times()) == 24
    assert source.times()[[0, -1]].astype(str).tolist() == ["2022-10-18T00:50", "2022-10-18T23:50"]
    values = source.read(0)
    assert np.nanmax(values) == pytest.approx(21.9, rel=1e-6) and 0.1 < np.isnan(values).mean() < 0.25


def test_knmi_composites_join_along_time(rain: Path) -> None:
    """31 quarter hours on 765 x 700 cells of 1 km, outer corner 49.362 N 0 E; a count is 0.01 mm in 5 minutes."""
    source = open_precipitation(rain / "knmi_20100826")
    assert source.grid.shape == (765, 700) and len(source.times()) == 31
    assert corner(source) == pytest.approx((49.362, 0.0), abs=1e-3)
    assert source.interval_hours == pytest.approx(5 / 60)
    assert source.times()[20] == np.datetime64("2010-08-26T05:00")
    values = source.read(20)
    assert np.nanmax(values) == pytest.approx(1.11 * 12, rel=1e-5)  # the largest count of that file is 111
    assert np.isnan(values).sum() == 398271  # pixels outside the radar image


def test_stage_four_grib_and_netcdf_share_the_hrap_plane(rain: Path) -> None:
    """881 x 1121 cells of 4762.5 m; first point 23.117 N 119.017 W as stated, last 45.6 N 60.0 W as published."""
    pytest.importorskip("eccodes")
    whole = open_precipitation(rain / "ST4.2002030112.06h.grb")
    assert isinstance(whole.grid, ProjectedGrid) and whole.grid.shape == (881, 1121) and whole.interval_hours == 6
    latitude, longitude = whole.grid.latlon()
    assert (latitude[0, 0], longitude[0, 0]) == pytest.approx((23.117, -119.017), abs=1e-6)
    assert (latitude[-1, -1], longitude[-1, -1]) == pytest.approx((45.619, -59.959), abs=0.01)
    assert whole.times()[0] == np.datetime64("2002-03-01T12:00")
    assert np.isnan(whole.read(0)).sum() == 272559 and np.nanmax(whole.read(0)) * 6 == pytest.approx(91.75, rel=1e-3)
    florence = open_precipitation(rain / "test_stageiv_xyt.nc")
    assert isinstance(florence.grid, ProjectedGrid) and florence.grid.crs == whole.grid.crs
    assert florence.grid.shape == (118, 87) and len(florence.times()) == 23 and florence.interval_hours == 1
    assert florence.grid.spacing == pytest.approx((4762.5, 4762.5), rel=1e-3)
    assert max(np.nanmax(florence.read(k)) for k in range(23)) == pytest.approx(163.75)


def test_the_weather_service_day_marks_missing_cells(rain: Path) -> None:
    """813 x 1051 HRAP cells with the corners the file states; -1 is missing; up to 237.67 mm in the day."""
    source = open_precipitation(rain / "nws_precip_conus_20061222.nc")
    assert corner(source) == pytest.approx((23.476933, -118.67131), abs=1e-4)
    assert source.times()[0] == np.datetime64("2006-12-22T12:00") and source.interval_hours == 24
    values = source.read(0)
    assert np.nanmax(values) * 24 == pytest.approx(237.67, rel=1e-5) and np.isnan(values).mean() == pytest.approx(
        0.41, abs=0.01
    )


def test_mrms_is_the_whole_country_at_a_hundredth_of_a_degree(rain: Path) -> None:
    """3500 x 7000 cells from 20 to 55 N and 130 to 60 W; -3 is no coverage; up to 148.8 mm/h."""
    pytest.importorskip("eccodes")
    source = open_precipitation(rain / "mrms_20190610" / "PrecipRate_00.00_20190610-000000.grib2")
    assert isinstance(source.grid, LatLonGrid) and source.grid.shape == (3500, 7000) and source.interval_hours == 0
    assert source.grid.latitude_bounds()[[0, -1]] == pytest.approx([20, 55], abs=1e-5)
    assert source.grid.longitude_bounds()[[0, -1]] - 360 == pytest.approx([-130, -60], abs=1e-5)
    assert source.times()[0] == np.datetime64("2019-06-10T00:00")
    values = source.read(0)
    assert np.nanmin(values) == 0 and np.nanmax(values) == pytest.approx(148.8) and np.isnan(values).any()


def test_monthly_sums_of_unknown_length_are_refused(rain: Path) -> None:
    """The units mm/m (per month) are not guessed at."""
    with pytest.raises(SourceError, match="pr is in unknown units 'mm/m'; known are"):
        open_precipitation(rain / "bcsd_obs_1999.nc")
