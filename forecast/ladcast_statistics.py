"""Published statistics of LaDCast (arXiv 2506.09193): normalisation of ERA5, statistics of the latents.

The figures are those of tonyzyl/ladcast @ 112143f (MIT licence): `static/ERA5_normal_1979_2017.json`, unweighted mean
and standard deviation of ERA5 at 1.5 degrees over 1979 to 2017 (sea-surface temperature: over the sea), and
`static/ERA5_latent_normal_1979_2017_lat84.json`. Published dynamics expect latents with a standard deviation of 0.5.
"""

from __future__ import annotations

__all__ = [
    "LADCAST_GRID",
    "LADCAST_MISSING",
    "SIGMA_DATA",
    "ladcast_latent_statistics",
    "ladcast_normalizer",
]

import json
from functools import cache
from importlib import resources
from typing import Any

import torch
from torch import Tensor

from gen.data.era5 import GRID as LADCAST_GRID
from gen.data.normalize import Normalizer
from gen.data.variables import LADCAST_CHANNELS

LADCAST_MISSING = {"sst": -2.0}  # what the networks see, in normalised units, where the sea has no temperature
SIGMA_DATA = 0.5


def ladcast_normalizer() -> Normalizer:
    """Return the published normalisation of the 84 channels: (x - mean) / std in SI units."""
    table = _figures()["channels"]
    mean, std = zip(*(table[channel.code] for channel in LADCAST_CHANNELS), strict=True)
    return Normalizer(LADCAST_CHANNELS, torch.tensor(mean), torch.tensor(std))


def ladcast_latent_statistics() -> tuple[Tensor, Tensor]:
    """Return mean and scale [84] that turn raw latents into those of the dynamics: z' = (z - mean) / scale.

    The scale is the published standard deviation over `SIGMA_DATA`, so that z' has the standard deviation 0.5.
    """
    mean, std = (torch.tensor(_figures()["latent"][name]) for name in ("mean", "std"))
    return mean, std / SIGMA_DATA


@cache
def _figures() -> dict[str, Any]:
    text = resources.files("forecast").joinpath("ladcast_statistics.json").read_text(encoding="utf-8")
    return dict(json.loads(text))
