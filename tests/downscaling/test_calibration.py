"""Settings that depend on the factor: interpolation, tail maps, what the model makes of them, files."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from diffusion.samplers import build_sampler
from downscaling.calibration import Calibration, Settings, TailMap
from downscaling.drawing import PairDrawer
from downscaling.lattice import Target, build_domain
from downscaling.model import DownscalingMeta, DownscalingModel, SamplingDefaults, build_networks
from downscaling.sampling import RainSampler, tile_side
from gen.grid import LatLonGrid
from gen.hub import seal

SIZES = {"widths": (8, 16, 32), "depths": (1, 1, 1), "head_dim": 16, "window": 4, "halo": 2}
STEEP = TailMap((4.0, 10.0, 20.0), (4.0, 12.0, 28.0))
FLAT = TailMap((2.0, 10.0, 30.0), (2.0, 9.0, 21.0))


def model_with(sampling: SamplingDefaults) -> DownscalingModel:
    torch.manual_seed(0)
    meta = DownscalingMeta(
        {}, {"name": "flow"}, (1.0, 2.0), (2.5, 8.0), (0.0, 1.0), [0.0, 1.0], "nothing", True, sampling
    )
    return DownscalingModel(build_networks(SIZES, SIZES, {"name": "flow"}), meta).eval()


def fitted() -> Calibration:
    return Calibration((2.0, 8.0), (Settings(1.0, -0.8, STEEP), Settings(0.6, -0.4)))


def test_settings_lie_on_lines_in_the_logarithm_of_the_factor() -> None:
    """4 is half way from 2 to 8, 2.5 is log(1.25) / log(4) of it; beyond the ends nothing changes."""
    found = fitted()
    assert found.at(4.0).noise_scale == pytest.approx(0.8) and found.at(4.0).wet_threshold == pytest.approx(-0.6)
    share = math.log(1.25) / math.log(4)
    assert found.at(2.5).noise_scale == pytest.approx(1 - 0.4 * share)
    assert found.at(4.0).tail(torch.tensor([20.0])).item() == pytest.approx(24.0)  # half of 28 and half of 20
    for factor, k in ((2.0, 0), (1.0, 0), (8.0, 1), (16.0, 1)):
        assert found.at(factor) == found.settings[k]
    one = Calibration((4.0,), (Settings(0.9),))
    assert one.at(2.0) == one.at(4.0) == one.at(32.0) == Settings(0.9)


def test_maps_of_tails_are_monotone_and_leave_light_rain_alone() -> None:
    """Corners are met, the ratio stays beyond the last, and rates up to the first keep their bits."""
    rain = torch.linspace(0, 60, 601)
    out = STEEP(rain)
    assert torch.equal(out[rain <= 4], rain[rain <= 4]) and bool((out.diff() > 0).all())
    assert STEEP(torch.tensor([7.0, 10.0, 20.0, 50.0])).tolist() == pytest.approx([8.0, 12.0, 28.0, 70.0])
    assert TailMap()(rain) is rain


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("other", [FLAT, TailMap()])
def test_a_map_between_two_is_the_mean_of_both_everywhere(share: float, other: TailMap) -> None:
    """Also below the first and beyond the last corner of either."""
    rain = torch.linspace(0, 80, 1601, dtype=torch.float64)
    torch.testing.assert_close(STEEP.between(other, share)(rain), (1 - share) * STEEP(rain) + share * other(rain))


def test_rain_takes_threshold_and_tail_of_its_settings() -> None:
    """Wet where the chance exceeds the threshold of the factor; heavy rain is mapped, never above the ceiling."""
    model = model_with(SamplingDefaults(calibration=fitted()))
    rates = torch.tensor([1.0, 10.0, 20.0, 499.0])
    levels = torch.stack([model.transform.forward(rates), torch.tensor([-0.7, -0.7, 0.5, 0.5])])[None, :, None]
    near, far = (model.rain(levels, model.meta.sampling.at(f))[0, 0] for f in (2.0, 8.0))
    assert near.tolist() == pytest.approx([1.0, 12.0, 28.0, 500.0], rel=1e-4)
    assert far.tolist() == pytest.approx([0.0, 0.0, 20.0, 499.0], rel=1e-4)


def test_noise_is_scaled_by_the_settings() -> None:
    """What the sampler is handed is the noise times the scale of the factor."""
    model = model_with(SamplingDefaults(calibration=fitted()))
    noise, seen = torch.randn(2, 2, 8, 8), []

    def sampler(_: Any, start: torch.Tensor, cond: Any) -> torch.Tensor:
        seen.append(start)
        return start

    fields = torch.zeros(1, model.networks.mean.config["in_channels"], 8, 8)
    features = torch.zeros(1, model.networks.mean.config["cond_features"])
    model.draw(fields, features, noise, sampler, settings=model.meta.sampling.at(8.0))
    torch.testing.assert_close(seen[0], 0.6 * noise)


def test_models_without_a_calibration_keep_their_two_numbers() -> None:
    """As every factor had them before; their files name no calibration."""
    old: dict[str, Any] = {"sampler": "flow_midpoint", "steps": 4, "noise_scale": 0.9, "wet_threshold": -0.75}
    sampling = SamplingDefaults.from_dict(old)
    assert sampling == SamplingDefaults(**old) and sampling.at(2.5) == sampling.at(8.0) == Settings(0.9, -0.75)
    model, levels = model_with(sampling), torch.randn(2, 2, 8, 8)
    assert torch.equal(model.rain(levels), model.rain(levels, sampling.at(4.0)))


def test_files_keep_the_calibration(tmp_path: Path) -> None:
    """What is written is read again; what is damaged is refused in one line."""
    model = model_with(SamplingDefaults(calibration=fitted()))
    model.save(tmp_path / "model")
    assert DownscalingModel.load(tmp_path / "model").meta == model.meta
    path = tmp_path / "model" / "downscaling.json"
    document = json.loads(path.read_text())
    document["sampling"]["calibration"]["factors"] = [8.0, 2.0]
    path.write_text(json.dumps(document))
    seal(tmp_path / "model")
    with pytest.raises(ValueError, match="ascending factors") as error:
        DownscalingModel.load(tmp_path / "model")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"factors": (2.0,)}, "got 2 for"),
        ({"factors": ()}, "ascending factors"),
        ({"factors": "many"}, "could not convert"),
        ({"factors": None}, "cannot be read"),
        ({"settings": [{"noise_scale": 1.0}, {}]}, "wet_threshold"),
        ({"settings": [{"noise_scale": 0.0, "wet_threshold": 0.0}] * 2}, "must be positive"),
        ({"settings": [{"noise_scale": 1.0, "wet_threshold": -2.0}] * 2}, "in .-1, 1."),
        ({"settings": [{"noise_scale": 1.0, "wet_threshold": 0.0, "tail": {"rates": [1.0]}}] * 2}, "mapped"),
    ],
)
def test_bad_calibrations_are_refused(change: dict[str, Any], words: str) -> None:
    """One line says what is wrong."""
    with pytest.raises(ValueError, match=words) as error:
        Calibration.from_dict(dataclasses.asdict(fitted()) | change)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("rates", "mapped", "words"),
    [
        ((1.0,), (1.0,), "two at least"),
        ((1.0, 2.0), (1.0,), "as many"),
        ((2.0, 1.0), (2.0, 2.0), "ascend"),
        ((1.0, 2.0), (1.1, 2.0), "first"),
        ((4.0, 5.0, 5.5), (4.0, 5.0, 4.9), "descend"),
        ((1.0, 2.0), (1.0, 4.0), "0.67 to 1.5"),
    ],
)
def test_bad_tail_maps_are_refused(rates: tuple[float, ...], mapped: tuple[float, ...], words: str) -> None:
    """Monotone, anchored at the first corner, and never far from the identity."""
    with pytest.raises(ValueError, match=words):
        TailMap(rates, mapped)


@pytest.mark.parametrize(("factor", "noise", "wet"), [(2.0, 1.0, -0.8), (4.0, 0.8, -0.6), (8.0, 0.6, -0.4)])
def test_fine_rain_is_that_of_a_model_with_these_numbers_alone(
    tiny_model: DownscalingModel, rain: Callable[..., Any], factor: float, noise: float, wet: float
) -> None:
    """A domain is drawn with the settings of its factor, to the bit."""
    points = (Settings(1.0, -0.8), Settings(0.6, -0.4))
    sampling = dataclasses.replace(tiny_model.meta.sampling, calibration=Calibration((2.0, 8.0), points))
    exact = sampling.at(factor)
    assert (exact.noise_scale, exact.wet_threshold) == pytest.approx((noise, wet))
    plain = dataclasses.replace(
        sampling, calibration=None, noise_scale=exact.noise_scale, wet_threshold=exact.wet_threshold
    )
    where = LatLonGrid(np.linspace(40.125, 42.375, 10), np.linspace(5.125, 7.375, 10))
    drawn = []
    for chosen in (sampling, plain, dataclasses.replace(plain, noise_scale=2.0)):
        model = DownscalingModel(tiny_model.networks, dataclasses.replace(tiny_model.meta, sampling=chosen)).eval()
        domain = build_domain(where, Target(factor), tile_side(model))
        sampler = RainSampler(model, domain, build_sampler("flow_midpoint", 1))
        drawn.append(np.concatenate([d.values for d in sampler.draw(rain(10, 10), 0, (0,))], axis=1))
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])


def test_a_noise_scale_that_is_asked_for_wins() -> None:
    """The rest of the settings stays that of the factor."""
    model = model_with(SamplingDefaults(calibration=fitted()))
    assert PairDrawer(model, 2).settings(2.0) == fitted().settings[0]
    asked = PairDrawer(model, 2, noise_scale=1.3).settings(2.0)
    assert asked == dataclasses.replace(fitted().settings[0], noise_scale=1.3)
