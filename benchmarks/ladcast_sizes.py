"""Networks, inputs and model folders of LaDCast's sizes with random weights, for `ladcast_engine.py`.

The sizes "375M" and "1.6B" are those of the configurations in `configs/forecast`; "tiny" has the same channels and
grids (84 x 121 x 240, latents 84 x 15 x 30) and next to no layers, so that everything runs in a minute.
"""

from __future__ import annotations

__all__ = ["SIZES", "attention_shape", "flops", "inputs", "make_codec", "make_folder", "make_network", "make_world"]

from pathlib import Path
from typing import Any

import numpy as np
import torch
from plain_ladcast import plain_decode, plain_encode, plain_transformer
from torch import Tensor, nn

from autoencoders.dcae import DCAE
from autoencoders.weather import WeatherCodec
from diffusion.dual_stream import DualStreamTransformer
from forecast.ladcast_statistics import (
    LADCAST_GRID,
    LADCAST_MISSING,
    SIGMA_DATA,
    ladcast_latent_statistics,
    ladcast_normalizer,
)
from forecast.model import DynamicsMeta, ForecastModel, SamplingDefaults
from gen.data.variables import LADCAST_LEVELS, LADCAST_NAMES

CONFIGS = Path(__file__).resolve().parents[1] / "configs" / "forecast"
SIZES = ("tiny", "375M", "1.6B")
CHANNELS, STATICS, FRAMES = 84, 5, 4
FIELDS, LATENT = (120, 240), (15, 30)
START = "2018-01-01"
TINY_NETWORK = {
    "num_attention_heads": 2, "attention_head_dim": 32, "num_layers": 1, "num_single_layers": 1,
    "num_refiner_layers": 1, "mlp_ratio": 2, "rope_axes_dim": [8, 12, 12], "location": "none", "design": "ladcast",
}  # fmt: skip
TINY_CODEC = {
    "latent_channels": CHANNELS, "attention_head_dim": 32, "encoder_block_out_channels": [21, 84, 84, 84],
    "encoder_layers_per_block": [1, 0, 0, 1], "encoder_block_types": ["ResBlock"] * 3 + ["EfficientViTBlock"],
    "encoder_qkv_multiscales": [[], [], [], [5]], "padding": "ladcast",
}  # fmt: skip


def make_network(size: str) -> DualStreamTransformer:
    """Return the transformer with random weights, in eval mode; on the meta device where that is the default."""
    torch.manual_seed(0)
    rows, columns = ([float(v.mean()) for v in np.split(axis, n)] for axis, n in zip(_axes(), LATENT, strict=True))
    settings = TINY_NETWORK if size == "tiny" else _configured(f"ladcast-{size}", "network")
    return DualStreamTransformer(CHANNELS, CHANNELS, CHANNELS, rows, columns, **settings).eval().requires_grad_(False)


def make_codec(size: str) -> DCAE:
    """Return the autoencoder with random weights, in eval mode; both published sizes have the same."""
    torch.manual_seed(1)
    settings = TINY_CODEC if size == "tiny" else _configured("ladcast-dcae", "dcae")
    both = CHANNELS + STATICS
    return DCAE(both, both, STATICS, **settings).eval().requires_grad_(False)


def inputs(part: str, batch: int, seed: int = 2) -> dict[str, Tensor]:
    """Return random arguments of one part: "network", "encode" or "decode"."""
    g = torch.Generator().manual_seed(seed)
    if part == "encode":
        static = torch.randn(STATICS, *FIELDS, generator=g)
        return {"x": torch.randn(batch, CHANNELS, *FIELDS, generator=g), "static": static}
    if part == "decode":
        return {"z": torch.randn(batch, CHANNELS, *LATENT, generator=g)}
    return {
        "x": torch.randn(batch, CHANNELS, FRAMES, *LATENT, generator=g),
        "c_noise": torch.full((batch,), -0.3),
        "cond": torch.randn(batch, CHANNELS, 1, *LATENT, generator=g),
        "hours": torch.full((batch,), 420_768, dtype=torch.int64),
    }


def attention_shape(network: DualStreamTransformer) -> tuple[int, tuple[int, int, int]]:
    """Return heads and the channels of a head for time, latitude and longitude."""
    time, lat, lon = network.config["rope_axes_dim"]
    return int(network.config["num_attention_heads"]), (int(time), int(lat), int(lon))


def flops(part: str, size: str) -> int:
    """Return the FLOPs (two per multiply-add) of the plain statement of one part, one sample."""
    from gen.dryrun import measure

    with torch.device("meta"):
        module: nn.Module = make_network(size) if part == "network" else make_codec(size)
    weights = dict(module.named_parameters())

    shapes = {name: (value.shape, value.dtype) for name, value in inputs(part, 1).items()}

    def call(batch: int, dtype: torch.dtype) -> Tensor:
        given = {name: torch.empty(shape, dtype=kind) for name, (shape, kind) in shapes.items()}
        if isinstance(module, DualStreamTransformer):
            return plain_transformer(weights, *given.values(), *attention_shape(module))
        return plain_encode(weights, **given) if part == "encode" else plain_decode(weights, **given)

    return measure(call, [module]).flops


def make_folder(size: str, folder: Path, steps: int) -> Path:
    """Write a model folder with random weights, as `gen convert --from ladcast` writes published ones."""
    g = torch.Generator().manual_seed(3)
    mean, scale = ladcast_latent_statistics()
    codec = WeatherCodec(
        make_codec(size), ladcast_normalizer(), LADCAST_GRID, static=torch.randn(STATICS, *FIELDS, generator=g),
        latent_mean=mean, latent_std=scale, south_pole=False, missing=LADCAST_MISSING,
        land=torch.rand(LADCAST_GRID.shape, generator=g) < 0.3,
    )  # fmt: skip
    settings = {"sigma_min": 0.002, "sigma_max": 80.0, "rho": 7.0}
    meta = DynamicsMeta(
        frames=FRAMES, step_hours=6, step_std=[], precondition={"name": "edm", "sigma_data": SIGMA_DATA},
        trained_on="nothing: random weights", simulated=False, name=f"random-{size}", target="states", folded=False,
        sampling=SamplingDefaults("dpmpp_2m", steps, settings, members_per_block="auto"),
    )  # fmt: skip
    ForecastModel(codec, make_network(size), meta).save(folder)
    return folder


def make_world(path: Path, starts: int) -> Path:
    """Write analytic states of all channels, one a day, as a NetCDF file in WeatherBench layout."""
    from gen.data.synthetic import toy_world

    return toy_world(
        path, grid=LADCAST_GRID, names=LADCAST_NAMES, levels=LADCAST_LEVELS, start=START, count=starts, step_hours=24
    )


def _axes() -> tuple[np.ndarray, np.ndarray]:
    """Return latitude and longitude of what the networks see, the row at the South Pole left out."""
    return np.asarray(LADCAST_GRID.latitude)[1:], np.asarray(LADCAST_GRID.longitude)


def _configured(name: str, part: str) -> dict[str, Any]:
    from omegaconf import OmegaConf

    return dict(OmegaConf.to_container(OmegaConf.load(CONFIGS / f"{name}.yaml").params[part]))
