"""Calibration: the noise scale whose spread matches the error is found and stored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

from downscaling.calibrate import HIGHEST, fit_noise_scale, main, solve
from downscaling.drawing import choose_cases
from downscaling.model import DownscalingMeta, DownscalingModel, SamplingDefaults, build_networks
from gen.hub import open_model

SIZES = {"widths": (8, 16, 32), "depths": (1, 1, 1), "head_dim": 16, "window": 4, "halo": 2}


@pytest.mark.parametrize("truth", [0.7, 1.0, 1.4])
def test_secants_find_the_scale(truth: float) -> None:
    """rho(s) = (s / s*)^0.8 is solved within the tolerance of 1 % in at most five measurements."""
    fit = solve(lambda s: (s / truth) ** 0.8, 1.0)
    assert fit.noise_scale == pytest.approx(truth, rel=0.015) and len(fit.tried) <= 5
    assert fit.ratio == pytest.approx(1.0, abs=0.011)


def test_what_cannot_be_reached_ends_at_the_limit() -> None:
    """An ensemble that noise cannot spread gets the largest scale, not an endless search."""
    fit = solve(lambda s: 0.2 * s**0.1, 1.0)
    assert fit.noise_scale == HIGHEST and len(fit.tried) < 8


def test_the_command_fits_and_stores(tmp_path: Path) -> None:
    """The copy has the fitted scale, a valid seal, and the same weights; the original is as it was."""
    torch.manual_seed(0)
    meta = DownscalingMeta(
        {}, {"name": "flow"}, (1.0, 2.0), (2.5, 8.0), (0.0, 1.0), [0.0, 1.0], "nothing", True, SamplingDefaults(steps=1)
    )
    DownscalingModel(build_networks(SIZES, SIZES, {"name": "flow"}), meta).save(tmp_path / "model")
    rain = np.random.default_rng(0).gamma(0.4, 2.0, (1, 40, 40)).astype(np.float32)
    places = {"time": [np.datetime64("2020-01-01", "ns")], "latitude": 45 + 0.01 * np.arange(40)}
    data = xr.DataArray(
        rain, coords=places | {"longitude": 5 + 0.01 * np.arange(40)}, dims=("time", "latitude", "longitude"),
        attrs={"units": "mm h-1", "cell_methods": "time: mean (interval: 1 hour)"},
    )  # fmt: skip
    data.to_dataset(name="precipitation").to_netcdf(tmp_path / "event.nc")
    line = f"{tmp_path}/model --events {tmp_path}/event.nc --factors 4 --crops 1 --crop-size 40 --members 3"
    assert main([*line.split(), "--out", str(tmp_path / "fitted")]) == 0
    before, after = (DownscalingModel.load(tmp_path / name) for name in ("model", "fitted"))
    assert before.meta == meta and after.meta.sampling.noise_scale != 1.0
    assert open_model(tmp_path / "fitted").digest != open_model(tmp_path / "model").digest
    cases = choose_cases([str(tmp_path / "event.nc")], [4.0], 1, 40)
    again = fit_noise_scale(before, cases, members=3)
    assert after.meta.sampling.noise_scale == pytest.approx(again.noise_scale, abs=1e-3)
    assert main([*line.split(), "--out", str(tmp_path / "fitted")]) == 2  # never over another folder
