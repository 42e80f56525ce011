"""forecast.task with a model that draws states without the South Pole: files, gaps, precision, mistakes."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

from forecast.data import open_analysis
from forecast.model import ForecastModel
from forecast.request import ForecastRequest
from forecast.task import Forecast


class Asker:
    """Make forecasts of the small model that draws states."""

    def __init__(self, folder: Path, states: ModuleType) -> None:
        self.folder, self.states, self.model = folder, states, ForecastModel.load(folder / "model")

    def __call__(self, **wish: Any) -> Forecast:
        wish = {"init": (self.states.START,), "members": 4, "lead": "1d", "device": "cpu", "dtype": "float32", **wish}
        wish = {"source": str(self.folder / "world.nc"), "model": str(self.folder / "model"), **wish}
        return Forecast(ForecastRequest(**wish), self.model, "digest")

    def fields(self, **wish: Any) -> np.ndarray:
        """Return the values [members, leads, C, H, W] of the first block."""
        forecast = self(**wish)
        return torch.cat([b.values for b in forecast.sample(forecast.units()[0])], dim=1).numpy()


@pytest.fixture(scope="module")
def ask(states_workshop: Path, states: ModuleType) -> Asker:
    return Asker(states_workshop, states)


def test_states_are_written_on_the_whole_grid(ask: Asker, states: ModuleType) -> None:
    """All 17 rows, both poles; no value of the sea surface over land and only there; rain is never negative."""
    values, codes = ask.fields(), [c.code for c in states.CHANNELS]
    assert values.shape == (4, 4, 5, 17, 32)
    gaps = np.isnan(values[:, :, codes.index("sst")])
    assert (gaps == states.land().numpy()).all()
    rest = np.delete(values, codes.index("sst"), axis=2)
    assert np.isfinite(rest).all() and values[:, :, codes.index("tp06")].min() >= 0
    assert (np.ptp(rest[..., 0, :], axis=-1) <= 1e-3 * np.abs(rest[..., 0, :]).max(-1) + 1e-6).all()  # one pole value


def test_gaps_of_the_analysis_reach_the_codec(ask: Asker, states_workshop: Path, states: ModuleType) -> None:
    """Sea-surface temperature without a value over land is encoded as the number that stands for it."""
    codec, start = ask.model.codec, np.datetime64(states.START, "h")
    analysis = open_analysis(str(states_workshop / "world.nc"), states_workshop / "model", codec)
    raw = analysis.source.read(start, codec.channels, grid=codec.grid).values
    assert bool((torch.isnan(raw[[c.code for c in states.CHANNELS].index("sst")]) == states.land()).all())
    z = analysis.encode(start, [0], torch.device("cpu"))
    assert z.shape == (1, 6, 4, 8) and bool(torch.isfinite(z).all())


def test_half_precision_draws_near_the_same_states(ask: Asker) -> None:
    """bfloat16 inside the networks: float32 latents between them, fields within a tenth of their variation."""
    forecast = ask(dtype="bfloat16")
    assert all(z.dtype == torch.float32 for z in forecast._latents(forecast.units()[0]))
    half, whole = ask.fields(dtype="bfloat16"), ask.fields()
    scale = np.nanstd(whole, axis=(-2, -1)).mean(axis=(0, 1))
    error = np.nanmean(np.abs(half - whole), axis=(0, 1, 3, 4))
    assert (error < 0.1 * scale).all() and error.max() > 0


def test_only_what_is_written_is_decoded(ask: Asker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of ten frames of six hours two are written: two calls of the decoder, each with the one channel asked for."""
    forecast, seen = ask(variables=("z500",), lead="60h", step="30h"), list[tuple[int, list[int]]]()
    decode = forecast.model.codec.decode

    def counted(latent: torch.Tensor, index: list[int]) -> torch.Tensor:
        seen.append((len(latent), index))
        return decode(latent, index)

    monkeypatch.setattr(forecast.model.codec, "decode", counted)
    leads = [b.leads for b in forecast.sample(forecast.units()[0])]
    assert seen == [(4, [0])] * 2 and leads == [slice(0, 1), slice(1, 2)]


def test_decoding_beside_sampling_changes_no_bit(ask: Asker, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an accelerator does, done here: the same blocks in the same order."""
    from forecast.overlap import finish_behind

    forecast = ask(lead="3d")
    plain = list(forecast.sample(forecast.units()[0]))
    monkeypatch.setattr("forecast.task.map", finish_behind, raising=False)
    beside = list(forecast.sample(forecast.units()[0]))
    assert [b.leads for b in plain] == [b.leads for b in beside]
    for a, b in zip(plain, beside, strict=True):
        assert a.values.numpy().tobytes() == b.values.numpy().tobytes()


def test_mistakes_name_what_is_wrong(ask: Asker, states_workshop: Path, tmp_path: Path) -> None:
    """A date outside the store, a missing channel, and gaps where there must be none: one line each."""
    with xr.open_dataset(states_workshop / "world.nc") as world:
        world.drop_vars("sea_surface_temperature").to_netcdf(tmp_path / "dry.nc")
        holes = world.load().copy(deep=True)
        holes["2m_temperature"][0, 3, 4] = np.nan
        holes.to_netcdf(tmp_path / "holes.nc")
        world.isel(latitude=slice(4, 12)).to_netcdf(tmp_path / "belt.nc")
    for wish, text in (
        ({"init": ("2019-01-01",)}, "no data for 2019-01-01"),
        ({"source": str(tmp_path / "dry.nc")}, "lacks sst"),
        ({"source": str(tmp_path / "holes.nc")}, "2t at 2018-01-01T00 has NaN"),
        ({"source": str(tmp_path / "belt.nc")}, "belt.nc"),
    ):
        with pytest.raises(ValueError, match=text) as caught:
            ask(**wish)
        assert "\n" not in str(caught.value)
