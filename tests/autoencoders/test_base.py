"""Latent sizes and the codec protocol."""

from __future__ import annotations

import pytest

from autoencoders.base import Codec, LatentSpec
from autoencoders.dcae import DCAE


def test_latent_and_grid_determine_each_other() -> None:
    """The published 84-channel codec: 120 x 240 to 15 x 30 with as many channels is a compression of 64."""
    spec = LatentSpec.for_grid(84, 8, (120, 240))
    assert spec.shape == (15, 30) and spec.grid == (120, 240) and spec.compression(84) == 64


def test_grids_that_do_not_divide_are_refused() -> None:
    """121 rows cannot be divided by 8; the message names both."""
    with pytest.raises(ValueError, match="divisible by 8; got 121 x 240"):
        LatentSpec.for_grid(84, 8, (121, 240))
    with pytest.raises(ValueError, match="channels of a latent must be at least 1; got 0"):
        LatentSpec(0, 8, (15, 30))


def test_the_autoencoder_is_a_codec() -> None:
    """DCAE offers encode, decode and latent_spec."""
    assert isinstance(
        DCAE(3, 3, latent_channels=4, encoder_block_out_channels=[8], encoder_layers_per_block=[1]), Codec
    )
