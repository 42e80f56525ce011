"""Fields with gaps: sea-surface temperature is scored over the sea only, with the weights of the sea."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

from gen.data.variables import Channel
from gen.evaluate import run_evaluate
from gen.grid import LatLonGrid
from gen.metrics.deterministic import anomaly_correlation, deterministic_statistics
from gen.metrics.ensemble import brier_score, crps, ensemble_statistics
from gen.metrics.scorer import Scorer

GRID = LatLonGrid.equiangular(12, 24)
AREAS = torch.from_numpy(GRID.cell_areas().copy())
WEST = np.broadcast_to(GRID.longitude < 180, GRID.shape)  # land: half of the sphere
INIT, LEADS = np.datetime64("2024-01-01", "h"), np.array([24, 48], dtype="timedelta64[h]")
RNG = np.random.default_rng(0)


def half(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.where(WEST, np.nan, values))


def east(values: torch.Tensor) -> float:
    """Return the mean over the other half, computed from nothing but its own cells."""
    keep = torch.from_numpy(~WEST)
    return float((values[keep] * AREAS[keep]).sum() / AREAS[keep].sum())


def test_half_a_sphere_gives_the_mean_of_the_other_half() -> None:
    """Every statistic of an ensemble and of a single field; errors that are 1 on the sea have mean 1, not 1/2."""
    truth, members = RNG.standard_normal(GRID.shape), RNG.standard_normal((5, *GRID.shape))
    named = ensemble_statistics(half(members), half(truth), AREAS)
    y, x = torch.from_numpy(truth), torch.from_numpy(members)
    assert float(named["crps"]) == pytest.approx(east(crps(x, y)), rel=1e-12)
    assert float(named["squared_error"]) == pytest.approx(east((x.mean(0) - y).square()), rel=1e-12)
    assert float(named["variance"]) == pytest.approx(east(x.var(0)), rel=1e-12)
    assert float(named["rank_histogram"].sum()) == pytest.approx(1.0)
    assert float(named["rank_histogram"][0]) == pytest.approx(east((x > y).all(0).double()), rel=1e-12)
    one = deterministic_statistics(half(truth + 1), half(truth), AREAS)
    assert all(float(one[k]) == pytest.approx(1.0, rel=1e-12) for k in ("crps", "squared_error", "error"))
    zero = torch.zeros(GRID.shape, dtype=torch.float64)
    assert float(anomaly_correlation(half(2 * truth), half(truth), zero, AREAS)) == pytest.approx(1.0, rel=1e-12)


def test_an_event_without_a_threshold_is_not_scored() -> None:
    """Where the climatology has no quantile there is no event: NaN, not a perfect score."""
    ensemble, truth = torch.rand(4, *GRID.shape), torch.rand(*GRID.shape)
    score = brier_score(ensemble, truth, half(np.full(GRID.shape, 0.5)))
    assert torch.equal(torch.isnan(score), torch.from_numpy(WEST.copy()))


class Files:
    """Four members that are 1 too warm over their own sea, which begins one column later than the truth's."""

    members, grid, channels, inits, leads = 4, GRID, (Channel("sea_surface_temperature"),), np.array([INIT]), LEADS

    def __init__(self, gap: np.ndarray) -> None:
        self.gap = gap

    def read(self, init: np.datetime64, leads: np.ndarray, channel: Channel) -> torch.Tensor:
        bias = 1.0 + 0.1 * np.arange(-1.5, 2)[:, None, None, None] + np.zeros((4, leads.size, *GRID.shape))
        return torch.from_numpy(np.where(self.gap, np.nan, 290.0 + bias))


class Source:
    """290 K over the sea at all times."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel

    def times(self) -> np.ndarray:
        return INIT + 24 * np.arange(4)

    def read(self, time: np.datetime64, channels: Any, grid: LatLonGrid) -> Any:
        return type("Field", (), {"values": half(np.full(GRID.shape, 290.0))[None]})


def scorer(gap: np.ndarray, name: str = "sea_surface_temperature") -> Scorer:
    from gen.metrics.scorer import Truth

    channel, files = Channel(name), Files(gap)
    files.channels = (channel,)
    return Scorer(files, Truth(Source(channel), [channel], GRID), LEADS, AREAS)  # type: ignore[arg-type]


def test_all_systems_are_scored_on_the_same_sea() -> None:
    """A coast that differs by a column is left out for model and persistence alike; the bias of 1 K stays 1 K."""
    coast = WEST | (GRID.longitude == 180)
    named = scorer(coast).score(INIT)
    assert named["model/error"] == pytest.approx(np.ones((2, 1)))
    assert named["persistence/error"] == pytest.approx(np.zeros((2, 1)))
    sums = scorer(coast)
    truth = sums._common(INIT, LEADS, sums.truth.read(INIT + LEADS))
    seen = [int((~torch.isnan(truth[k, 0])).sum()) for k in range(2)]
    assert seen == [int((~coast).sum())] * 2


def test_other_fields_may_have_no_gaps() -> None:
    """NaN in a temperature, or in all of a sea-surface temperature, is a broken forecast and refused."""
    for broken in (scorer(WEST | (GRID.longitude == 180), "2m_temperature"), scorer(np.ones(GRID.shape, bool))):
        with pytest.raises(ValueError, match="has NaN at 24 h; it cannot be scored"):
            broken.score(INIT)


def test_an_evaluation_of_the_sea_is_that_of_the_sea(tmp_path: Path) -> None:
    """`gen evaluate` on files: RMSE and bias of a forecast 2 K too warm are 2 K, in strict JSON."""
    field = np.where(WEST, np.nan, 290.0).astype(np.float32)
    dims = ("latitude", "longitude")
    places = {"latitude": GRID.latitude, "longitude": GRID.longitude}
    times = INIT.astype("datetime64[ns]") + np.arange(3) * np.timedelta64(1, "D")
    name, units = "sea_surface_temperature", {"units": "K"}
    truth = xr.Dataset({name: (("time", *dims), np.stack([field] * 3), units)}, {"time": times, **places})
    truth.to_netcdf(tmp_path / "truth.nc", engine="h5netcdf")
    values = np.stack([field + 1, field + 3])[:, None, None].repeat(2, axis=2)
    axes = {"number": [0, 1], "time": times[:1], "prediction_timedelta": LEADS.astype("timedelta64[ns]")}
    made = xr.Dataset({name: ((*axes, *dims), values, units)}, {**axes, **places})
    made.to_netcdf(tmp_path / "f.nc", engine="h5netcdf")
    scores = run_evaluate([tmp_path / "f.nc"], str(tmp_path / "truth.nc"), out=tmp_path, baselines=("persistence",))
    model = scores["scores"]["model"]
    assert model["rmse"]["sst"]["value"] == pytest.approx([2.0, 2.0]) == model["bias"]["sst"]["value"]
    assert scores["scores"]["persistence"]["rmse"]["sst"]["value"] == pytest.approx([0.0, 0.0])
    assert "NaN" not in json.dumps(scores) and json.loads((tmp_path / "scores.json").read_text()) == scores
