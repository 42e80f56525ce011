"""Where sampling is better than the original LaDCast's: its fault and our behaviour side by side.

The original's side is what `forecast.parity` repeats, or plain arithmetic. (Land, rain and the South Pole are
the codec's, gradients at the poles the convolutions'.)
"""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from safetensors.torch import load_file
from torch import Tensor

from diffusion.denoiser import AnalyticGaussian, Denoiser
from diffusion.dual_stream import DualStreamTransformer
from diffusion.ladcast import ladcast_config
from diffusion.precondition import EDM
from diffusion.samplers import build_sampler
from forecast.model import ForecastModel
from forecast.parity import parity_noise, parity_sampler
from forecast.request import ForecastRequest, parse_inits
from forecast.rollout import frame_noise, rollout
from forecast.task import Forecast
from gen.sample import run_sample

SHAPE, INIT = (8, 15, 30), 420768  # 2018-01-01T00, hours since 1970
LEADS = (6, 12, 18, 24)


def correlation(a: Tensor, b: Tensor) -> float:
    """Return the correlation of two fields."""
    return float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1])


def ours(member: int = 3, init: int = INIT, call: int = 0) -> Tensor:
    """Return the noise of one member, call and start [C, T, h, w]."""
    return frame_noise(SHAPE, 0, [member], [init], [24 * call + lead for lead in LEADS])[0]


def test_noise_is_new_in_every_call_and_start() -> None:
    """Original: one tensor for all calls and dates of a member, correlation 1. Ours: independent, below 5 / sqrt(n)."""
    original = [parity_noise((8, 4, 15, 30), [3])[0] for _ in ("call 1", "call 2", "another start")]
    assert all(correlation(original[0], other) == pytest.approx(1, abs=1e-6) for other in original[1:])
    first, bound = ours(), 5 / (8 * 4 * 15 * 30) ** 0.5
    for other in (ours(call=1), ours(call=14), ours(init=INIT + 12), ours(init=INIT + 24), ours(member=4)):
        assert abs(correlation(first, other)) < bound


@pytest.fixture(scope="module")
def model(states: ModuleType) -> ForecastModel:
    built: ForecastModel = states.build()
    return built


def trajectory(model: ForecastModel, parity: bool, **wish: Any) -> Tensor:
    """Return the latents of members 0 and 1 over two calls; `wish` may hold seed and init."""
    sampler = parity_sampler(2) if parity else build_sampler("dpmpp_2m", 2)
    start = torch.zeros(2, 6, 4, 8)
    inits, seed = [wish.get("init", INIT)] * 2, wish.get("seed", 0)
    return torch.cat(list(rollout(model, start, inits, [0, 1], 2, seed, sampler, parity=parity)), dim=1)


def test_a_seed_makes_another_ensemble(model: ForecastModel) -> None:
    """Original: --seed has no effect. Ours: every member is another one, and the same seed gives the same bits."""
    assert torch.equal(trajectory(model, True, seed=1), trajectory(model, True, seed=2))
    first, second = trajectory(model, False, seed=1), trajectory(model, False, seed=2)
    assert all(not torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert torch.equal(first, trajectory(model, False, seed=1))


@pytest.fixture(scope="module")
def roomy(states: ModuleType) -> tuple[ForecastModel, str]:
    """A model whose blocks have the original's 64 rows."""
    return states.build(members_per_block=64), "digest"


@pytest.mark.parametrize("members", [63, 64, 65, 128, 130])
def test_any_ensemble_size_works(
    states_workshop: Path, states: ModuleType, roomy: tuple[ForecastModel, str], members: int
) -> None:
    """Original: multiples of its batch of 64 crash in an empty batch, more than 64 crash in the second call, where the
    condition is not cut to the batch. Ours: every member of two calls is there once, finite and different.
    """
    folder = states_workshop
    asked: dict[str, Any] = {"members": members, "lead": "30h", "steps": 1, "variables": ("z500",), "device": "cpu"}
    places = {"source": str(folder / "world.nc"), "model": str(folder / "model")}
    forecast = Forecast(ForecastRequest(init=(states.START,), dtype="float32", **asked, **places), *roomy)
    seen: dict[int, int] = {}
    for unit in forecast.units():
        for block in forecast.sample(unit):
            assert bool(torch.isfinite(block.values).all())
            assert len({v.numpy().tobytes() for v in block.values}) == block.part.size
            for member in range(block.part.members.start, block.part.members.stop):
                seen[member] = seen.get(member, 0) + (block.leads.stop - block.leads.start)
    assert seen == dict.fromkeys(range(members), 5)


def test_dpm_solver_keeps_the_variance() -> None:
    """DPM-Solver++ 2M on data N(0, 0.5^2), the spread of the original's latents, from 80 to 0.002.

    Original: the start is unit noise where noise of standard deviation 80 is due; the exact flow then ends at a spread
    of 0.5 / 80. Ours: 0.5 to the error of the method, 6 % with 20 steps and 2 % with 40, with 20 evaluations where the
    original's Heun solver needs 39.
    """
    exact, noise = AnalyticGaussian(0.0, 0.5), torch.randn(20_000, 1, generator=torch.Generator().manual_seed(0))
    for steps, tolerance in ((20, 0.06), (40, 0.02)):
        sampler = build_sampler("dpmpp_2m", steps)
        assert float(sampler(exact, noise).std()) == pytest.approx(0.5, rel=tolerance)
        original = noise / sampler.points[0].sigma  # the sampler multiplies by sigma_max
        assert float(sampler(exact, original).std()) == pytest.approx(0.5 / 80, rel=tolerance)
    assert (build_sampler("dpmpp_2m", 20).evaluations, parity_sampler().evaluations) == (20, 39)


def test_the_unscaled_start_is_the_fault_of_the_original(shared: Path) -> None:
    """From unit noise our solver gives the output of the original's pipeline to 1e-5: its fault, and no other.

    There two members with the same condition differ by less than a tenth of what they differ by from scaled noise.
    """
    folder = shared / "fixtures" / "ladcast"
    edm = load_file(folder / "edm.safetensors")
    network = DualStreamTransformer(**ladcast_config(json.loads((folder / "transformer_tiny_config.json").read_text())))
    network.load_state_dict(load_file(folder / "transformer_tiny_weights.safetensors"))
    sampler, denoiser = build_sampler("dpmpp_2m", 4), Denoiser(network.eval().requires_grad_(False), EDM(0.5))
    assert torch.equal(edm["known"][0], edm["known"][1])
    cond, noise = {"cond": edm["known"], "hours": torch.tensor([INIT])}, edm["init_noise_seed0_1"]
    faulty, right = sampler(denoiser, noise / sampler.points[0].sigma, cond), sampler(denoiser, noise, cond)
    expected = edm["dpmpp_pipeline_out_4steps_NOT_sigma_scaled_init"]
    torch.testing.assert_close(faulty, expected, rtol=0, atol=1e-5)
    assert float((faulty[0] - faulty[1]).std()) < 0.1 * float((right[0] - right[1]).std())


def test_dates_are_exact(shared: Path, states_workshop: Path, states: ModuleType, tmp_path: Path) -> None:
    """Original: YYYYMMDDHH in float32, multiples of 128, which are none of its 240 evaluation dates but a few.

    Ours: whole hours in int64; the file holds the start and the valid times to the second.
    """
    assert int(np.float32(2018010100)) == 2018010112
    texts = json.loads((shared / "fixtures" / "ladcast" / "names_and_dates.json").read_text())
    dates = [text[:13] for text in texts["eval_inits_2018_10_per_month"]]
    numbers = np.array([int(d.replace("-", "").replace(" ", "")) for d in dates])
    assert (numbers.astype(np.float32).astype(np.int64) == numbers).sum() < 12
    inits = parse_inits(dates)
    assert [str(t).replace("T", " ") for t in inits] == dates and len(inits) == 240
    places = {"source": str(states_workshop / "world.nc"), "model": str(states_workshop / "model")}
    asked: dict[str, Any] = {"init": (states.START, states.SECOND), "members": 1, "lead": "12h", "plot": False}
    path = run_sample("forecast", {**asked, **places, "device": "cpu", "steps": 1, "out": tmp_path / "f.nc"})
    with xr.open_dataset(path) as data:
        assert data["time"].values.astype("datetime64[s]").tolist() == [
            datetime(2018, 1, 1, 0), datetime(2018, 1, 1, 12)
        ]  # fmt: skip
        assert (data["prediction_timedelta"].values / np.timedelta64(1, "h")).tolist() == [6, 12]
