"""forecast.pipeline and gen.load: a forecast in memory is the forecast of the file."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

import gen
from autoencoders.weather import WeatherCodec
from forecast.pipeline import ForecastPipeline
from gen.fields import Field
from gen.grid import LatLonGrid, regrid
from gen.sample import run_sample

WHEN = {"created", "history", "request_fingerprint"}  # of a file, or of the second in which it was made


@pytest.fixture(scope="module")
def pipeline(workshop: Path) -> ForecastPipeline:
    loaded = gen.load(workshop / "model")
    assert isinstance(loaded, ForecastPipeline)
    return loaded


def test_a_forecast_in_memory_is_that_of_the_file(
    pipeline: ForecastPipeline, workshop: Path, tiny: ModuleType, tmp_path: Path
) -> None:
    """Values, names, coordinates, units and provenance, bit for bit, for two starts."""
    wishes: dict[str, Any] = {"members": 3, "lead": "18h", "variables": ("z500", "temperature", "2t"), "seed": 5}
    wishes |= {"layout": "earth2studio"}
    starts = (tiny.START, tiny.SECOND)
    options = {**wishes, "init": starts, "model": str(workshop / "model"), "plot": False, "out": tmp_path / "a.nc"}
    file = run_sample("forecast", options)
    memory = pipeline(starts, **wishes)
    with xr.open_dataset(file) as expected:
        expected.load()
    ours = {k: v for k, v in memory.attrs.items() if k not in WHEN}
    assert ours == {k: v for k, v in expected.attrs.items() if k not in WHEN}
    memory.attrs, expected.attrs = {}, {}
    xr.testing.assert_identical(memory, expected)


def test_starts_may_be_times(pipeline: ForecastPipeline, tiny: ModuleType) -> None:
    """A datetime64 is the same as its text; only what is asked for is there."""
    one = pipeline(np.datetime64(tiny.START, "ns"), members=1, lead="6h", variables=["2t"], region="-60,60,0,90")
    two = pipeline(tiny.START, members=1, lead="6h", variables=["2t"], region="-60,60,0,90")
    np.testing.assert_array_equal(one["2m_temperature"], two["2m_temperature"])
    assert list(one.data_vars) == ["2m_temperature"] and float(one.latitude.max()) <= 60


def test_wishes_that_cannot_be_met_are_one_line(pipeline: ForecastPipeline, tiny: ModuleType) -> None:
    """The rules are those of the request; nothing is computed."""
    for options, words in (
        ({"members": 0}, "members must be at least 1"),
        ({"variables": ["sst"]}, "the model has no 'sst'"),
        ({"lead": "7h"}, "not a multiple"),
        ({"source": "nowhere.zarr"}, "nowhere.zarr"),
    ):
        with pytest.raises(ValueError, match=words) as caught:
            pipeline(tiny.START, **options)
        assert "\n" not in str(caught.value)


def test_states_go_to_latents_and_back(pipeline: ForecastPipeline, workshop: Path) -> None:
    """A Field, and the Dataset it becomes, have the latents of the codec; decoded fields have their coordinates."""
    latents = torch.randn(2, *pipeline.codec.latent_shape, generator=torch.Generator().manual_seed(0))
    fields = pipeline.decode(latents)
    assert fields.channels == pipeline.channels and fields.grid == pipeline.codec.grid
    with torch.no_grad():
        expected = torch.cat([pipeline.codec.encode(x[None]) for x in fields.values])
    assert torch.equal(pipeline.encode(fields), expected)
    torch.testing.assert_close(pipeline.encode(fields.to_xarray()), expected)
    some = pipeline.decode(latents, ["temperature"], [850])
    assert [c.code for c in some.channels] == ["t850"]
    torch.testing.assert_close(some.values, fields.select(some.channels).values)


def test_states_of_another_grid_are_refused(pipeline: ForecastPipeline) -> None:
    """The grid is never changed silently."""
    grid = LatLonGrid.equiangular(8, 16)
    values = regrid(torch.zeros(len(pipeline.channels), *pipeline.codec.grid.shape), pipeline.codec.grid, grid)
    with pytest.raises(ValueError, match="on 8 x 16 cells, the model's grid has 16 x 32"):
        pipeline.encode(Field(values, pipeline.channels, grid))
    with pytest.raises(ValueError, match="the dataset has no"):
        pipeline.encode(Field(values, pipeline.channels, grid).to_xarray().drop_vars("temperature"))


def test_gen_load_knows_models_by_name_and_kind(workshop: Path, tmp_path: Path) -> None:
    """The packaged demo by its name, a codec by its folder; anything else is one line."""
    demo = gen.load("demo")
    assert isinstance(demo, ForecastPipeline) and len(demo.channels) == 31 and len(demo.digest) == 64
    assert demo.to("cpu") is demo and demo.device == torch.device("cpu")
    assert isinstance(gen.load(str(workshop / "codec")), WeatherCodec)
    with pytest.raises(ValueError, match="no model 'dmo'; did you mean 'demo'"):
        gen.load("dmo")
    with pytest.raises(ValueError, match="no model folder"):
        gen.load(tmp_path)


def test_the_demo_forecasts_in_python() -> None:
    """The example of the documentation, shortened: one member, one call, in units of the file."""
    forecast = gen.load("demo")("2024-01-01", members=1, lead="12h", variables=["2t"], steps=1)
    assert forecast["2m_temperature"].attrs["units"] == "K" and forecast.sizes["prediction_timedelta"] == 2
    assert float(forecast["2m_temperature"].min()) > 180 and float(forecast["2m_temperature"].max()) < 340
    assert "simulated world" in forecast.attrs["warning"]
