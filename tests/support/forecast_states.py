"""A small untrained model of LaDCast's kind: it draws states, frame by frame, without the row at the South Pole.

Sea-surface temperature has no value over land. Built once in a process.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import xarray as xr

from autoencoders.dcae import DCAE
from autoencoders.weather import WeatherCodec
from diffusion.dual_stream import DualStreamTransformer
from forecast.model import DynamicsMeta, ForecastModel, SamplingDefaults
from gen.data.normalize import Normalizer
from gen.data.synthetic import analytic_states, toy_world
from gen.data.variables import make_channels
from gen.grid import LatLonGrid

GRID = LatLonGrid.equiangular(17, 32, poles=True)
NAMES = ("geopotential", "2m_temperature", "sea_surface_temperature", "total_precipitation_6hr")
LEVELS = (500, 850)
CHANNELS = make_channels(NAMES, LEVELS)
START, SECOND = "2018-01-01T00", "2018-01-01T12"
LATENT, FRAMES = 6, 4

_built: dict[str, Path] = {}


def land() -> torch.Tensor:
    """Return a continent, bool [H, W]."""
    mask = torch.zeros(GRID.shape, dtype=torch.bool)
    mask[5:10, 4:12] = True
    return mask


def build(seed: int = 0, members_per_block: int = 4) -> ForecastModel:
    """Return the model with random weights."""
    torch.manual_seed(seed)
    sample = torch.from_numpy(analytic_states(CHANNELS, GRID, range(0, 2400, 60)))
    widths = {"encoder_block_out_channels": (12, 12, 12), "encoder_layers_per_block": (0, 0, 0)}
    dcae = DCAE(len(CHANNELS), len(CHANNELS), latent_channels=LATENT, attention_head_dim=6, **widths)
    codec = WeatherCodec(
        dcae, Normalizer.fit(iter([sample]), CHANNELS), GRID,
        latent_std=torch.full((LATENT,), 2.0), south_pole=False, missing={"sst": -2.0}, land=land(),
    )  # fmt: skip
    places = codec.network_grid.latitude, codec.network_grid.longitude
    rows, columns = (axis.reshape(-1, 4).mean(1).tolist() for axis in places)
    network = DualStreamTransformer(
        LATENT, LATENT, LATENT, rows, columns, num_attention_heads=2, attention_head_dim=16, num_layers=1,
        num_single_layers=1, num_refiner_layers=1, mlp_ratio=2.0, location="none", design="ladcast",
    )  # fmt: skip
    meta = DynamicsMeta(
        frames=FRAMES, step_hours=6, step_std=[], precondition={"name": "edm", "sigma_data": 0.5},
        trained_on="nothing", simulated=False, target="states", folded=False, name="states",
        sampling=SamplingDefaults(steps=3, members_per_block=members_per_block),
    )  # fmt: skip
    return ForecastModel(codec, network, meta).eval().requires_grad_(False)


def workshop(base: Path) -> Path:
    """Return a folder with model/ and world.nc, three days of analytic weather with a continent."""
    if "states" not in _built:
        build().save(base / "model")
        toy_world(base / "whole.nc", grid=GRID, names=NAMES, levels=LEVELS, start="2018-01-01", count=12, seed=4)
        with xr.open_dataset(base / "whole.nc") as whole:
            world = whole.load()
            sea = world["sea_surface_temperature"]
            sea.values = np.where(land().numpy(), np.nan, sea.values).astype(np.float32)
            world.to_netcdf(base / "world.nc")
        _built["states"] = base
    return _built["states"]
