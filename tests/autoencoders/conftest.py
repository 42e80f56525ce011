"""Analytic weather, and a codec recipe on it, that the tests of codecs share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from autoencoders.recipe import CodecParams, CodecRecipe
from gen.data.synthetic import toy_world
from gen.grid import LatLonGrid

UPPER = ["geopotential", "u_component_of_wind", "v_component_of_wind", "specific_humidity"]
SURFACE = ["2m_temperature", "total_precipitation_6hr"]


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return 96 states of 6 channels on 8 x 16: two independent segments of 48, chunks of 16."""
    path = tmp_path_factory.mktemp("codec") / "world.zarr"
    return toy_world(
        path, grid=LatLonGrid.gaussian(8, 16), names=(*UPPER, *SURFACE), levels=[500], count=96, chunk=16, segments=[48]
    )


@pytest.fixture(scope="session")
def params(world: Path) -> Any:
    """Return a function that makes parameters of a small codec: 8 latent channels on 2 x 4."""

    def make(**changes: Any) -> CodecParams:
        values: dict[str, Any] = {
            "data": str(world),
            "upper": UPPER,
            "levels": [500],
            "surface": SURFACE,
            "log1p": {"total_precipitation_6hr": 1e-3},
            "train": ["2020-01-01", "2020-01-25"],
            "valid": ["2020-01-13", "2020-01-25"],
            "dcae": {
                "latent_channels": 8,
                "encoder_block_out_channels": [8, 8, 8],
                "encoder_layers_per_block": [0, 0, 1],
            },
            "states": 96,
        }
        return CodecParams(**{**values, **changes})

    return make


@pytest.fixture(scope="session")
def recipe(params: Any) -> CodecRecipe:
    """Return the recipe with principal components."""
    return CodecRecipe(params(), seed=0)
