"""forecast.data: start states come complete and encoded, or a line says why not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
import xarray as xr

from autoencoders.store import load_codec
from autoencoders.weather import WeatherCodec
from forecast.data import Analysis, open_analysis
from gen.data.sources import SourceError
from gen.data.synthetic import analytic_states
from gen.data.variables import Channel
from gen.fields import Field
from gen.grid import LatLonGrid

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def codec(workshop: Path) -> WeatherCodec:
    return load_codec(workshop / "codec")


class Ensemble:
    """A source with three members that differ in their weather."""

    name, synthetic, members = "three", False, 3

    def __init__(self, codec: WeatherCodec) -> None:
        self.codec, self.grid, self.notes, self.reads = codec, codec.grid, list[str](), list[int]()

    def times(self) -> np.ndarray:
        return np.array(["2020-01-01T00", "2020-01-01T06"], dtype="datetime64[h]")

    def channels(self) -> tuple[Channel, ...]:
        return self.codec.channels

    def missing(self, channels: Sequence[Channel]) -> tuple[Channel, ...]:
        return ()

    def read(
        self, time: np.datetime64, channels: Sequence[Channel], grid: LatLonGrid | None = None, member: int = 0
    ) -> Field:
        self.reads.append(member)
        self.notes = ["read"]
        states = analytic_states(channels, self.grid, [int(time.astype(np.int64))], seed=member)
        return Field(torch.from_numpy(states[0]), tuple(channels), self.grid)


def inits(*texts: str) -> np.ndarray:
    return np.array(texts, dtype="datetime64[h]")


def test_members_of_an_ensemble_analysis_are_dealt_round(codec: WeatherCodec) -> None:
    """Member m starts from analysis member m modulo their number; each is read once per block."""
    source = Ensemble(codec)
    analysis = Analysis(source, codec)
    z = analysis.encode(inits("2020-01-01")[0], [3, 4, 5, 6, 7], CPU)
    assert torch.equal(z[0], z[3]) and torch.equal(z[1], z[4]) and not torch.equal(z[0], z[1])
    assert source.reads == [0, 1, 2]
    state = source.read(inits("2020-01-01")[0], codec.channels, member=1).values
    with torch.no_grad():
        assert torch.equal(z[1], codec.encode(state[None])[0])


def test_the_check_reads_so_that_notes_are_complete(codec: WeatherCodec) -> None:
    """What was derived is known, and unusable data are refused, before anything is computed."""
    analysis = Analysis(Ensemble(codec), codec)
    assert analysis.notes == []
    analysis.check(inits("2020-01-01"))
    assert analysis.notes == ["read"] and not analysis.simulated and analysis.description == "three"


def test_a_start_without_data_names_its_neighbours(codec: WeatherCodec) -> None:
    """Between, before and after the times that exist, the nearest of them are named."""
    analysis = Analysis(Ensemble(codec), codec)
    for wish, near in (
        ("2020-01-01T03", "the nearest times are 2020-01-01T00 and 2020-01-01T06"),
        ("2019-06-01", "the nearest time is 2020-01-01T00"),
        ("2021-01-01", "the nearest time is 2020-01-01T06"),
    ):
        with pytest.raises(SourceError, match=f"three has no data for {wish}.*; {near}$"):
            analysis.check(inits("2020-01-01", wish))


def test_the_archive_of_the_model_is_the_demo_source(workshop: Path, codec: WeatherCodec, tiny: ModuleType) -> None:
    """The archive gives the states of the world up to the rounding of its mantissas, marked as simulated."""
    archive = open_analysis("demo", workshop / "model", codec)
    archive.check(inits(tiny.START))
    assert archive.simulated and "simulated" in archive.description
    direct = open_analysis(str(workshop / "world.zarr"), workshop / "model", codec)
    start = inits(tiny.START)[0]
    difference = archive.encode(start, [0], CPU) - direct.encode(start, [0], CPU)
    assert 0 < float(difference.abs().max()) < 0.05  # of unit variance
    with pytest.raises(SourceError, match="ships no initial states; give --source FILE"):
        open_analysis("demo", workshop / "codec", codec)


def test_the_last_rain_may_be_unknown(workshop: Path, codec: WeatherCodec, tmp_path: Path, tiny: ModuleType) -> None:
    """A file without precipitation starts dry, and says so; one without temperature is refused."""
    with xr.open_dataset(workshop / "model" / "initial_states.nc") as archive:
        archive.drop_vars("total_precipitation_6hr").to_netcdf(tmp_path / "dry.nc")
        archive.drop_vars("temperature").to_netcdf(tmp_path / "cold.nc")
    dry = open_analysis(str(tmp_path / "dry.nc"), workshop / "model", codec)
    dry.check(inits(tiny.START))
    assert dry.notes == ["tp06 is unknown and filled with 0 m"]
    with pytest.raises(SourceError, match="cold.nc lacks t at 500/850 hPa; it has z, q, u, v at 500/850 hPa; 2t, msl"):
        open_analysis(str(tmp_path / "cold.nc"), workshop / "model", codec).check(inits(tiny.START))


def test_other_grids_are_regridded(workshop: Path, codec: WeatherCodec, tmp_path: Path, tiny: ModuleType) -> None:
    """A start on a finer grid, north to south, gives the state of the model's grid.

    Analytic weather on 64 x 128 cells, averaged to 16 x 32, differs from its point values by the curvature within a
    cell: 10 % of the latents' unit bounds it here; another time of the same weather is far more different.
    """
    fine = tiny.toy_world(
        tmp_path / "fine.nc", grid=LatLonGrid.gaussian(64, 128), names=(*tiny.UPPER, *tiny.SURFACE),
        levels=tiny.LEVELS, start="2020-01-02", count=1, seed=3,
    )  # fmt: skip
    with xr.open_dataset(fine) as ds:
        ds.isel(latitude=slice(None, None, -1)).to_netcdf(tmp_path / "down.nc")
    coarse = open_analysis(str(workshop / "world.zarr"), workshop / "model", codec)
    other = open_analysis(str(tmp_path / "down.nc"), workshop / "model", codec)
    start = inits("2020-01-02")[0]
    z = other.encode(start, [0], CPU)
    near = (z - coarse.encode(start, [0], CPU)).square().mean().sqrt()
    far = (z - coarse.encode(inits("2020-01-05")[0], [0], CPU)).square().mean().sqrt()
    assert float(near) < 0.1 and float(far) > 0.5
