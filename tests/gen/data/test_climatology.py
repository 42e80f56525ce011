"""The climatology finds the annual and daily cycle that were put in, and draws members from the right season."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from gen.data.climatology import DailyClimatology, build_climatology, climatology_members, run_climatology
from gen.data.sources import SourceError
from gen.data.synthetic import toy_world
from gen.data.variables import Channel, parse_channel
from gen.fields import Field
from gen.grid import LatLonGrid

T2, MSL = Channel("2m_temperature"), Channel("mean_sea_level_pressure")


class Seasons:
    """Four years of a pure annual and daily cycle, every 12 hours, plus noise of known size."""

    name, synthetic, members, notes = "seasons", True, 1, ()
    grid = LatLonGrid.equiangular(4, 8)

    def __init__(self, noise: float = 0.0) -> None:
        self.noise = noise

    def times(self) -> np.ndarray:
        return np.arange("2000-01-01T00", "2004-01-01T00", 12, dtype="datetime64[h]")

    def channels(self) -> tuple[Channel, ...]:
        return (T2, MSL)

    def missing(self, channels: object) -> tuple[Channel, ...]:
        return ()

    def read(self, time: np.datetime64, channels: object, grid: object = None, member: int = 0) -> Field:
        rng = np.random.Generator(np.random.Philox(key=int(time.astype(int)) & 0xFFFFFFFF))
        noise = self.noise * rng.normal(size=(2, 4, 8))
        values = torch.from_numpy(truth(time) + noise).float()
        return Field(values, (T2, MSL), self.grid).select(list(channels))  # type: ignore[call-overload]


def truth(time: np.datetime64) -> np.ndarray:
    """Return the noise-free state: two harmonics of the year, and a day that differs from the night."""
    year = time.astype("datetime64[Y]")
    p = 2 * np.pi * float((time - year) / ((year + 1).astype("datetime64[h]") - year.astype("datetime64[h]")))
    day = 3.0 * (int(time.astype("datetime64[h]").astype(int)) % 24 == 12)
    pattern = np.arange(32.0).reshape(4, 8)
    t2 = 280 + pattern * np.cos(p) + 2 * np.sin(2 * p) + day
    return np.stack([t2, 101000 + 50 * pattern * np.sin(p)])


def test_harmonics_of_the_year_are_found() -> None:
    """On noise-free cycles the fit is the cycle itself, for each synoptic hour; tolerance: float32 storage."""
    source = Seasons()
    climatology = build_climatology(source, (T2, MSL), source.times())
    for text in ("2000-02-29T12", "2001-07-01T00", "2010-12-31T12"):
        time = np.datetime64(text, "h")
        np.testing.assert_allclose(climatology.mean(time).values.numpy(), truth(time), rtol=1e-6, atol=2e-3)
    assert climatology.hours == (0, 12)
    with pytest.raises(ValueError, match="no 06 UTC"):
        climatology.mean(np.datetime64("2001-01-01T06"))


def test_noise_is_smoothed_over_the_year() -> None:
    """With 1461 states per hour and 9 coefficients the error is sigma sqrt(9 / 1461) on average over the year."""
    source = Seasons(noise=5.0)
    climatology = build_climatology(source, (T2,), source.times())
    times = source.times()[: 2 * 366 : 7]
    errors = [climatology.mean(t).values.numpy()[0] - truth(t)[0] for t in times]
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(5.0 * np.sqrt(9 / 1461), rel=0.15)


def test_a_file_gives_the_same_climatology(tmp_path: Path) -> None:
    """Saved and opened, it has the same numbers, channels, grid and attributes; other files are refused."""
    source = Seasons()
    made = build_climatology(source, (T2, MSL), source.times()[::3])
    made.save(tmp_path / "c.nc")
    back = DailyClimatology.open(tmp_path / "c.nc")
    time = np.datetime64("2003-05-05T12")
    assert torch.equal(back.mean(time).values, made.mean(time).values)
    assert torch.equal(back.mean(time, [MSL]).values[0], made.mean(time).values[1])
    assert back.attrs["synthetic"] == "true" and back.grid == made.grid
    toy_world(tmp_path / "w.nc", count=4)
    with pytest.raises(ValueError, match="no daily climatology"):
        DailyClimatology.open(tmp_path / "w.nc")


def test_the_command_writes_the_mean_of_the_interval(tmp_path: Path) -> None:
    """Less than a year gives the plain mean of each hour of the day, with a warning in the log."""
    world = toy_world(tmp_path / "w.zarr", count=24, names=["2m_temperature", "geopotential"], levels=(500,))
    out = run_climatology(str(world), tmp_path / "c.nc", start="2020-01-02", stop="2020-01-03", variables=["2t"])
    climatology = DailyClimatology.open(out)
    from gen.data.windows import WorldReader

    states = WorldReader(world, [T2]).read(slice(None))
    torch.testing.assert_close(climatology.mean(np.datetime64("2020-06-01T06")).values, states[[5, 9]].mean(0))
    assert climatology.channels == (parse_channel("2t"),)
    with pytest.raises(SourceError, match="no times in the interval"):
        run_climatology(str(world), tmp_path / "d.nc", start="2021-01-01")
    with pytest.raises(ValueError, match="no date"):
        run_climatology(str(world), tmp_path / "d.nc", start="tomorrow")


def test_members_come_from_other_years_at_the_same_season_and_hour() -> None:
    """Every member lies within the window of the calendar day, at the same hour, in an allowed year, none twice."""
    source, read = Seasons(), []

    class Spy(Seasons):
        def read(self, time: np.datetime64, channels: object, grid: object = None, member: int = 0) -> Field:
            read.append(time)
            return super().read(time, channels, grid, member)

    time = np.datetime64("2002-01-03T12")
    values = climatology_members(Spy(), time, [T2], 12, window_days=6, years=[2000, 2001, 2002])
    assert values.shape == (12, 1, *source.grid.shape)
    assert len(set(read)) == 12
    for t in read:
        year = int(str(t)[:4])
        assert year in (2000, 2001) and str(t).endswith("T12")
        distance = min(abs(t - np.datetime64(f"{y}-01-03T12")) for y in (year, year + 1))
        assert distance <= np.timedelta64(6, "D")
    with pytest.raises(SourceError, match="has 26 states within 6 days of 06-10T12 UTC in other years; 30 are asked"):
        climatology_members(source, np.datetime64("2002-06-10T12"), [T2], 30, window_days=6, years=[2000, 2001])
