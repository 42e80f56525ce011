"""A complete, tiny, untrained forecast model and its analytic world, made with the recipes that make real models.

Built once in a process.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from autoencoders.latents import encode_world
from autoencoders.recipe import CodecParams, CodecRecipe
from autoencoders.store import load_codec
from forecast.recipe import ForecastParams, ForecastRecipe
from gen.data.extract import extract_states
from gen.data.synthetic import toy_world
from gen.grid import LatLonGrid
from gen.hub import open_model, seal

UPPER = ["geopotential", "temperature", "u_component_of_wind", "v_component_of_wind", "specific_humidity"]
SURFACE = ["2m_temperature", "mean_sea_level_pressure", "surface_pressure", "total_precipitation_6hr"]
LEVELS = [500, 850]
START, SECOND, END = "2020-01-02", "2020-01-03", "2020-01-21"  # what the archive of the model holds; end of the world
DEMO_SURFACE = ["10m_u_component_of_wind", "10m_v_component_of_wind", *SURFACE]
DEMO_LEVELS = [100, 250, 500, 700, 850]
SAMPLING = {
    "sampler": "dpmpp_2m",
    "steps": 2,
    "settings": {"sigma_min": 0.05, "sigma_max": 20.0, "rho": 5.0},
    "members_per_block": 4,
}

_built: dict[str, Path] = {}


def world(folder: Path) -> Path:
    """Return 20 days of analytic weather on 16 x 32, two segments of ten days."""
    path = folder / "world.zarr"
    names = (*UPPER, *SURFACE)
    return path if path.exists() else toy_world(path, names=names, levels=LEVELS, segments=[40], seed=3)


def codec_params(path: Path, **changes: Any) -> CodecParams:
    """Return the parameters of a codec with 16 latent channels on 4 x 8."""
    values: dict[str, Any] = {
        "data": str(path),
        "upper": UPPER,
        "levels": LEVELS,
        "surface": SURFACE,
        "log1p": {"total_precipitation_6hr": 1e-3},
        "train": ["2020-01-01", END],
        "valid": ["2020-01-01", END],
        "dcae": {
            "latent_channels": 16,
            "encoder_block_out_channels": [16, 16, 16],
            "encoder_layers_per_block": [0, 0, 1],
        },
        "states": 80,
    }
    return CodecParams(**{**values, **changes})


def forecast_params(folder: Path, **changes: Any) -> ForecastParams:
    """Return the parameters of the dynamics on the latents in `folder`."""
    values: dict[str, Any] = {
        "latents": str(folder / "latents.zarr"),
        "codec": str(folder / "codec"),
        "train": ["2020-01-01", END],
        "valid": ["2020-01-01", END],
        "frames": 2,
        "network": {
            "num_attention_heads": 2,
            "attention_head_dim": 16,
            "num_layers": 1,
            "num_single_layers": 1,
            "num_refiner_layers": 0,
            "mlp_ratio": 2.0,
        },
        "sampling": SAMPLING,
        "trained_on": "analytic weather",
        "name": "tiny",
    }
    return ForecastParams(**{**values, **changes})


def perturb(network: torch.nn.Module, seed: int, size: float = 0.2) -> None:
    """Move every weight by normal noise, so that nothing is zero and every condition matters."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += size * torch.randn(parameter.shape, generator=generator) / max(1, parameter[0].numel()) ** 0.5


def workshop(base: Path) -> Path:
    """Return a folder with world.zarr, codec/, latents.zarr and model/ (a forecast model with start states)."""
    if "tiny" not in _built:
        recipe = CodecRecipe(codec_params(world(base)), seed=0)
        recipe.export(recipe.model(), base / "codec")
        codec = load_codec(base / "codec")
        encode_world(codec, open_model(base / "codec").digest, base / "world.zarr", base / "latents.zarr")
        dynamics = ForecastRecipe(forecast_params(base), seed=0)
        denoiser = dynamics.model()
        perturb(denoiser, seed=1)
        dynamics.export(denoiser, base / "model")
        extract_states(base / "world.zarr", [START, SECOND], base / "model" / "initial_states.nc")
        seal(base / "model")
        _built["tiny"] = base
    return _built["tiny"]


def demo_sized(base: Path) -> Path:
    """Return a model with the 31 channels and the 48 x 96 grid of the demo, untrained, without start states."""
    if "demo" not in _built:
        folder = base / "large"
        folder.mkdir()
        grid, names = LatLonGrid.gaussian(48, 96), (*UPPER, *DEMO_SURFACE)
        path = toy_world(folder / "world.zarr", grid=grid, names=names, levels=DEMO_LEVELS, count=40, chunk=20)
        span = ["2020-01-01", "2020-01-11"]
        dcae = {"latent_channels": 32, "encoder_block_out_channels": [32, 32, 32], "encoder_layers_per_block": [0] * 3}
        recipe = CodecRecipe(
            codec_params(path, levels=DEMO_LEVELS, surface=DEMO_SURFACE, train=span, valid=span, dcae=dcae, states=40),
            seed=0,
        )
        recipe.export(recipe.model(), folder / "codec")
        codec, digest = load_codec(folder / "codec"), open_model(folder / "codec").digest
        encode_world(codec, digest, path, folder / "latents.zarr")
        dynamics = ForecastRecipe(forecast_params(folder, train=span, valid=span), seed=0)
        dynamics.export(dynamics.model(), folder / "model")
        _built["demo"] = folder / "model"
    return _built["demo"]
