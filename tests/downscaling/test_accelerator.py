"""On an accelerator a training step and drawn rain in bfloat16 are close to float32 on the CPU; skipped without one."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from diffusion.samplers import build_sampler
from downscaling.conditions import FEATURES, FIELDS, features, known_fields
from downscaling.model import DownscalingMeta, DownscalingModel, SamplingDefaults, build_networks
from downscaling.publish import synthetic_rain
from downscaling.transform import RainTransform

pytestmark = pytest.mark.gpu
SIZES = {"widths": (16, 32, 64), "depths": (0, 1, 2), "head_dim": 32, "window": 8, "halo": 4}
FACTOR, SIDE, MEMBERS = 4.0, 96, 3


def networks() -> Any:
    """Return both stages; no layer is zero."""
    torch.manual_seed(0)
    made = build_networks(SIZES, SIZES, {"name": "flow"})
    for name, parameter in made.named_parameters():
        if not bool(parameter.abs().sum()):
            nn.init.normal_(parameter, std=0.05, generator=torch.Generator().manual_seed(len(name)))
    return made


def given() -> tuple[dict[str, Tensor], Tensor]:
    """Return what is known of a scene and its fine rain [1, H, W]."""
    fine = torch.from_numpy(synthetic_rain((SIDE, SIDE), times=1))
    count = int(SIDE / FACTOR)
    coarse = fine.reshape(count, int(FACTOR), count, int(FACTOR)).mean((1, 3))
    places = (torch.arange(SIDE, dtype=torch.float64) + 0.5) / FACTOR
    told = known_fields(coarse, places, places, RainTransform())
    assert told.shape[0] == len(FIELDS)
    known = {"fields": told[None], "features": features(FACTOR, 1.0, 1.0, 50.0)[None]}
    assert known["features"].shape == (1, len(FEATURES))
    place = torch.stack(torch.meshgrid(torch.arange(SIDE) * 1.0, torch.arange(SIDE) * 1.0, indexing="ij"))
    return {**known, "place": place[None].double()}, fine


def moved(tensors: dict[str, Tensor], device: str) -> dict[str, Tensor]:
    return {k: v.to(device) for k, v in tensors.items()}


def test_a_training_step_in_bfloat16() -> None:
    """Loss within 3 % and gradient within 20 % of float32 on the CPU, for the same noise."""
    transform, (known, fine) = RainTransform(), given()
    noise = torch.randn(1, 2, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    found = {}
    for device, dtype in (("cpu", torch.float32), ("cuda", torch.bfloat16)):
        network = networks().to(device)
        rain, told = fine.to(device), moved(known, device)
        wet, there = transform.wet(rain), torch.ones_like(rain, dtype=torch.bool)
        with torch.autocast(device, dtype, enabled=dtype != torch.float32):
            sigma = torch.tensor([0.6], device=device)
            loss = sum(network.errors(told, transform.forward(rain), wet, there, sigma, noise.to(device)).values())
        loss.backward()
        gradient = torch.cat([p.grad.flatten().double().cpu() for p in network.parameters() if p.grad is not None])
        found[device] = float(loss.detach()), gradient
    (exact, slope), (rough, other) = found["cpu"], found["cuda"]
    assert abs(rough - exact) < 0.03 * abs(exact)
    assert (other - slope).norm() < 0.2 * slope.norm()


def test_drawn_rain_in_bfloat16() -> None:
    """The same noise gives the same rain to 5 % of its standard deviation; float32 agrees to 1 %."""
    meta = DownscalingMeta({}, {"name": "flow"}, (1.0, 1.0), (2.5, 8.0), (0.0, 1.0), [0.0, 1.0], "", True,
                           SamplingDefaults())  # fmt: skip
    model = DownscalingModel(networks(), meta).eval()
    known, _ = given()
    noise = torch.randn(MEMBERS, 2, SIDE, SIDE, generator=torch.Generator().manual_seed(2))
    sampler, drawn = build_sampler("flow_midpoint", 4), {}
    for name, device, dtype in (
        ("exact", "cpu", torch.float32),
        ("float32", "cuda", torch.float32),
        ("bfloat16", "cuda", torch.bfloat16),
    ):
        there, told = copy.deepcopy(model).to(device), moved(known, device)
        with torch.autocast(device, dtype, enabled=dtype != torch.float32):
            levels = there.levels(told["fields"], told["features"], noise.to(device), sampler, told["place"][0])
        drawn[name] = levels.float().cpu().numpy()
    spread = drawn["exact"].std()
    for name, bound in (("float32", 0.01), ("bfloat16", 0.05)):
        assert np.sqrt(np.square(drawn[name] - drawn["exact"]).mean()) < bound * spread
