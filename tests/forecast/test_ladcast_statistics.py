"""forecast.ladcast_statistics: the published figures, and what upstream makes of a state with them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from autoencoders.base import LatentSpec
from autoencoders.weather import WeatherCodec
from forecast.ladcast_statistics import (
    LADCAST_MISSING,
    ladcast_latent_statistics,
    ladcast_normalizer,
)
from gen.data.variables import LADCAST_CHANNELS
from gen.grid import LatLonGrid


class Transparent(torch.nn.Module):
    """Stands in for an autoencoder that loses nothing: the latent is the normalised field."""

    latent_channels = 84

    def encode(self, x: Tensor, static: Tensor | None = None) -> Tensor:
        return x

    def decode(self, z: Tensor, channels: object = None) -> Tensor:
        return z

    def latent_spec(self, grid: tuple[int, int]) -> LatentSpec:
        return LatentSpec.for_grid(84, 1, grid)


@pytest.fixture(scope="module")
def published(shared: Path) -> dict[str, Tensor]:
    return load_file(shared / "fixtures" / "ladcast" / "normalisation.safetensors")


def test_channels_are_the_published_ones_in_their_order(shared: Path) -> None:
    """84 names, variable by variable and level by level; sea-surface temperature is number 82."""
    names = json.loads((shared / "fixtures" / "ladcast" / "names_and_dates.json").read_text())["channel_names"]
    assert [c.name + ("" if c.level is None else f"_{c.level}") for c in LADCAST_CHANNELS] == names
    assert LADCAST_CHANNELS[82].code == "sst" and len(LADCAST_CHANNELS) == 84


def test_figures_are_the_published_ones(published: dict[str, Tensor]) -> None:
    """All 84 means and standard deviations of fields and latents, to float32."""
    normalizer = ladcast_normalizer()
    assert torch.equal(normalizer.mean.float(), published["era5_mean84"])
    assert torch.equal(normalizer.std.float(), published["era5_std84"])
    mean, scale = ladcast_latent_statistics()
    assert torch.equal(mean, published["latent_mean84"]) and torch.equal(scale / 2, published["latent_std84"])


def test_states_are_normalised_as_upstream_does(published: dict[str, Tensor]) -> None:
    """85 channels with nine rows become 84 with eight: no pole, no surface pressure, -2 for NaN; 1e-6 of the value."""
    grid = LatLonGrid.equiangular(9, 8, poles=True)
    mean, scale = ladcast_latent_statistics()
    codec = WeatherCodec(
        Transparent(), ladcast_normalizer(), grid, south_pole=False, missing=LADCAST_MISSING  # type: ignore[arg-type]
    )  # fmt: skip
    seen = codec.encode(published["raw85_9x8_withSP_row"][:, :84])
    torch.testing.assert_close(seen, published["preprocessed84_8x8"], rtol=1e-6, atol=1e-6)
    assert bool((seen[:, 82][published["nan_mask"].bool()] == -2).all()) and bool(published["nan_mask"].any())
    latents = published["latent_raw"].transpose(0, 1)
    normed = (latents - mean[:, None, None]) / scale[:, None, None]
    torch.testing.assert_close(normed, published["latent_normed_half"].transpose(0, 1), rtol=1e-6, atol=1e-6)
