"""forecast.parity: the original LaDCast's sampling, against its outputs and against itself."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from diffusion.dual_stream import DualStreamTransformer
from diffusion.ladcast import ladcast_config
from forecast.model import DynamicsMeta, ForecastModel, SamplingDefaults
from forecast.parity import noise_levels, parity_noise, parity_sampler
from forecast.request import ForecastRequest
from forecast.rollout import rollout
from forecast.task import Forecast

INIT = 420768  # 2018-01-01T00, hours since 1970


needs_avx2 = pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() == "DEFAULT",
    reason="the original's bits are those of torch's vector kernels (AVX2); this processor has none",
)


@pytest.fixture(scope="module")
def edm(shared: Path) -> dict[str, Tensor]:
    return load_file(shared / "fixtures" / "ladcast" / "edm.safetensors")


@pytest.fixture(scope="module")
def published(shared: Path) -> ForecastModel:
    """Return the original's tiny network as a model that draws states; it has no codec."""
    folder = shared / "fixtures" / "ladcast"
    network = DualStreamTransformer(**ladcast_config(json.loads((folder / "transformer_tiny_config.json").read_text())))
    network.load_state_dict(load_file(folder / "transformer_tiny_weights.safetensors"))
    meta = DynamicsMeta(
        frames=4, step_hours=6, step_std=[], precondition={"name": "edm", "sigma_data": 0.5}, trained_on="nothing",
        simulated=False, sampling=SamplingDefaults(), target="states", folded=False,
    )  # fmt: skip
    return ForecastModel(nn.Identity(), network, meta).eval().requires_grad_(False)  # type: ignore[arg-type]


@needs_avx2
@pytest.mark.parametrize("count", [4, 10, 18, 20, 50, 1000])
def test_noise_levels_are_those_of_the_original(edm: dict[str, Tensor], count: int) -> None:
    """All of them, in float32: within two units in the last place, and the first is the original's 79.99998."""
    levels, expected = noise_levels(count), edm[f"sigmas_{count}"]
    torch.testing.assert_close(levels, expected, rtol=2.4e-7, atol=0)
    assert levels[0] == expected[0] < 80 and levels[-1] == 0


@needs_avx2
def test_noise_is_that_of_the_original(edm: dict[str, Tensor]) -> None:
    """Members 0 and 1 draw the original's numbers, bit for bit; a member does not depend on the others."""
    assert torch.equal(parity_noise((8, 4, 15, 30), [0, 1]), edm["init_noise_seed0_1"])
    assert torch.equal(parity_noise((8, 4, 15, 30), [5, 1])[1], edm["init_noise_seed0_1"][1])


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_samples_are_those_of_the_original(published: ForecastModel, edm: dict[str, Tensor], steps: int) -> None:
    """A call of the model, from the start state at its date, gives the original's output.

    1e-4, of the sample's standard deviation where that is above 1: two steps of an untrained network reach 218.
    """
    stream = rollout(published, edm["known"][:, :, 0], [INIT] * 2, [0, 1], 1, 7, parity_sampler(steps), parity=True)
    sample, expected = next(stream).transpose(1, 2), edm[f"edm_heun_out_{steps}steps"]
    assert sample.dtype == torch.float32
    torch.testing.assert_close(sample, expected, rtol=0, atol=1e-4 * max(1.0, float(expected.std())))


@needs_avx2
def test_calls_follow_each_other_as_in_the_original(published: ForecastModel, edm: dict[str, Tensor]) -> None:
    """Call 2 starts from the last frame, 24 h later, with the same noise again; members of two starts share a block."""
    sampler, z = parity_sampler(1), edm["known"][:, :, 0]
    one, two = rollout(published, z, [INIT, INIT + 12], [0, 1], 2, 0, sampler, parity=True)
    hours = torch.tensor([INIT + 24, INIT + 36])
    with torch.no_grad():
        again = published.advance(one[:, -1], hours, edm["init_noise_seed0_1"], sampler)
    assert torch.equal(two, again) and not torch.equal(one, two)


class Asker:
    """Make forecasts of the small model that draws states."""

    def __init__(self, folder: Path, states: ModuleType) -> None:
        self.folder, self.states, self.model = folder, states, ForecastModel.load(folder / "model")

    def __call__(self, **wish: Any) -> Forecast:
        wish = {"init": (self.states.START,), "members": 3, "lead": "2d", "device": "cpu", **wish}
        wish = {"source": str(self.folder / "world.nc"), "model": str(self.folder / "model"), **wish}
        return Forecast(ForecastRequest(**wish), self.model, "digest")


@pytest.fixture(scope="module")
def ask(states_workshop: Path, states: ModuleType) -> Asker:
    return Asker(states_workshop, states)


def latents(forecast: Forecast) -> Tensor:
    """Return [members, frames, C, h, w] of the first block."""
    return torch.cat(list(forecast._latents(forecast.units()[0])), dim=1)


def test_a_request_with_parity_is_the_original(ask: Asker, caplog: pytest.LogCaptureFixture) -> None:
    """20 steps, 39 evaluations, float32 whatever the machine prefers; a seed changes nothing, which is said."""
    forecast = ask(parity=True)
    facts = forecast.attributes()
    assert facts["sampler"] == "heun, 20 steps, 39 evaluations per call" and facts["network_dtype"] == "float32"
    assert "generator seeded with the member" in facts["noise"] and not caplog.records
    short = {"parity": True, "steps": 2}
    with caplog.at_level(logging.WARNING):
        seeded = ask(seed=3, **short)
    assert [r.message for r in caplog.records] == [
        "note: --seed 3 has no effect with --parity: member k draws with seed k"
    ]
    assert torch.equal(latents(seeded), latents(ask(**short)))
    assert not torch.equal(latents(ask(sampler="heun", steps=2)), latents(ask(**short)))


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({"sampler": "dpmpp_2m"}, "fixes the sampler to the original's heun; got 'dpmpp_2m'"),
        ({"dtype": "bfloat16"}, "needs --dtype float32"),
    ],
)
def test_what_would_not_be_the_original_is_refused(ask: Asker, wish: dict[str, str], message: str) -> None:
    """Another sampler or precision is one line."""
    with pytest.raises(ValueError, match=message):
        ask(parity=True, **wish)


def test_a_model_of_increments_has_no_original(workshop: Path, tiny: ModuleType) -> None:
    """Our own models cannot be sampled so."""
    request = ForecastRequest(init=(tiny.START,), model=str(workshop / "model"), parity=True, device="cpu")
    with pytest.raises(ValueError, match="repeats LaDCast's own sampling; this model draws increments"):
        Forecast(request, ForecastModel.load(workshop / "model"), "digest")
