"""What the stories of downscaling share: a tiny model with random weights, coarse rain."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from downscaling.model import DownscalingMeta, DownscalingModel, SamplingDefaults, build_networks

SIZES = {"widths": (8, 16, 32), "depths": (1, 1, 1), "head_dim": 16, "window": 4, "halo": 2}


def build(**sampling: Any) -> DownscalingModel:
    """Return a model whose layers all have weights, tiles of 160 pixels and two evaluations per sample."""
    torch.manual_seed(0)
    networks = build_networks(SIZES, SIZES, {"name": "flow"}).requires_grad_(False)
    for parameter in networks.parameters():
        if not bool(parameter.abs().sum()):
            parameter.copy_(0.05 * torch.randn(parameter.shape))
    defaults = {"steps": 1, "tile": 64, "overlap": 16, "members_per_block": 2, **sampling}
    meta = DownscalingMeta(
        transform={},
        precondition={"name": "flow"},
        spacing_km=(1.0, 12.0),
        factors=(2.5, 8.0),
        interval_hours=(0.0, 6.0),
        quantiles=[0.0, 1.0],
        trained_on="nothing",
        simulated=True,
        sampling=SamplingDefaults(**defaults),
    )
    return DownscalingModel(networks, meta).eval()


@pytest.fixture(scope="session")
def tiny_model() -> DownscalingModel:
    return build()


@pytest.fixture(scope="session")
def model_folder(tiny_model: DownscalingModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the tiny model with its rain sample, as a package ships it."""
    from downscaling.publish import publish

    folder = tmp_path_factory.mktemp("model")
    tiny_model.save(folder / "trained")
    publish(folder / "trained", folder / "demo")
    return folder / "demo"


@pytest.fixture(scope="session")
def rain() -> Callable[..., np.ndarray]:
    """Return a maker of coarse rain [H, W] in mm/h, 40 % of it dry."""

    def make(rows: int, columns: int, seed: int = 0) -> np.ndarray:
        random = np.random.default_rng(seed)
        values = np.exp(random.normal(size=(rows, columns)))
        return np.where(random.random((rows, columns)) < 0.4, 0.0, values).astype(np.float32)

    return make


@pytest.fixture(scope="session")
def with_sampling() -> Callable[..., DownscalingModel]:
    """Return a maker of tiny models with other defaults of the sampler."""
    return build


@pytest.fixture(scope="session")
def write_region() -> Callable[..., Path]:
    """Return the writer of RainShift folders (`rainshift_fixture.py`)."""
    found = importlib.util.spec_from_file_location("rainshift", Path(__file__).with_name("rainshift_fixture.py"))
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    writer: Callable[..., Path] = module.write_region
    return writer
