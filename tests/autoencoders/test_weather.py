"""autoencoders.weather: physical fields to unit-variance latents and back, within physical limits."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor

from autoencoders.dcae import DCAE
from autoencoders.recipe import CodecRecipe
from autoencoders.weather import WeatherCodec, limit
from gen.data.normalize import Normalizer
from gen.data.variables import parse_channel
from gen.grid import LatLonGrid

GRID = LatLonGrid.gaussian(8, 16)


@pytest.fixture(scope="module")
def codec(recipe: CodecRecipe) -> WeatherCodec:
    return recipe.codec(recipe.model())  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def states(recipe: CodecRecipe) -> Tensor:
    """All 96 states in SI units."""
    return recipe.reader.read(slice(0, 96))


def encoded(codec: WeatherCodec, states: Tensor) -> Tensor:
    with torch.no_grad():
        return codec.encode(states)


def test_latents_have_zero_mean_and_unit_variance(codec: WeatherCodec, states: Tensor) -> None:
    """Over the training data, per channel; the statistics come from every eighth state, hence 0.2."""
    z = encoded(codec, states)
    assert z.shape == (96, *codec.latent_shape) and codec.latent_shape == (8, 2, 4)
    assert float(z.mean((0, 2, 3)).abs().max()) < 0.2
    assert float((z.std((0, 2, 3)) - 1).abs().max()) < 0.2
    few = encoded(codec, states.reshape(6, 16, *states.shape[1:])[:, ::8].flatten(0, 1))
    assert float(few.mean((0, 2, 3)).abs().max()) < 1e-4 and float((few.std((0, 2, 3)) - 1).abs().max()) < 1e-4


def test_decoding_what_was_encoded_gives_the_weather(codec: WeatherCodec, states: Tensor) -> None:
    """Every channel is nearer to the state than the mean field is, although eight numbers stand for 96 anomalies.

    What is decoded, encoded again, has the same latents up to what the physical limits cut off.
    """
    z = encoded(codec, states)
    with torch.no_grad():
        back = codec.decode(z)
    error = (back - states).square().mean((0, 2, 3)).sqrt() / (states - states.mean(0)).square().mean((0, 2, 3)).sqrt()
    assert float(error.max()) < 1.0 and float(error[0]) < 0.75
    assert float((encoded(codec, back) - z).square().mean().sqrt()) < 0.1


def test_a_subset_of_channels_is_the_same_bits(codec: WeatherCodec, states: Tensor) -> None:
    """`index` selects and orders channels of the result; values do not change."""
    z = encoded(codec, states[:3])
    with torch.no_grad():
        whole, some = codec.decode(z), codec.decode(z, [5, 0, 3])
    assert torch.equal(some, whole[:, [5, 0, 3]])


def test_anomalies_are_undone(codec: WeatherCodec, states: Tensor) -> None:
    """`normalise` has unit variance over the sphere, zero mean in every cell, and its inverse gives the fields."""
    x = codec.normalise(states)
    assert float(x.mean(0).abs().max()) < 1e-3
    area = torch.from_numpy(GRID.area_weights()).float()
    torch.testing.assert_close((x.square().mean(0) * area).sum((1, 2)), torch.ones(6), rtol=1e-3, atol=0)
    back = codec.normalizer.inverse(codec._restore(x, list(range(6))))
    torch.testing.assert_close(back, states, rtol=1e-5, atol=1e-5)


def test_without_statistics_values_pass_unscaled() -> None:
    """Neither anomalies nor latent statistics: encode is the autoencoder of the normalised fields."""
    channels = tuple(parse_channel(c) for c in ("2t", "msl"))
    normalizer = Normalizer(channels, torch.tensor([280.0, 1e5]), torch.tensor([10.0, 1e3]))
    torch.manual_seed(0)
    dcae = DCAE(
        in_channels=2, out_channels=2, latent_channels=4, encoder_block_out_channels=[4, 4],
        encoder_layers_per_block=[0, 0],
    ).eval()  # fmt: skip
    codec = WeatherCodec(dcae, normalizer, GRID)
    x = torch.randn(2, 2, 8, 16, generator=torch.Generator().manual_seed(1))
    values = x * torch.tensor([10.0, 1e3])[:, None, None] + torch.tensor([280.0, 1e5])[:, None, None]
    with torch.no_grad():
        torch.testing.assert_close(codec.encode(values), dcae.encode(x), rtol=1e-4, atol=1e-4)
        z = dcae.encode(x)
        torch.testing.assert_close(codec.decode(z)[:, 0], 280 + 10 * dcae.decode(z)[:, 0])


def test_limits_are_those_of_the_variables() -> None:
    """Rain, humidity, temperature and pressure are cut at zero; winds and geopotential are not."""
    channels = [parse_channel(c) for c in ("tp06", "q850", "t500", "msl", "u500", "10v", "z500")]
    values = torch.linspace(-2, 2, 5).expand(1, 7, 1, 5)
    low = limit(values, channels).amin((0, 2, 3)).tolist()
    assert low == [0, 0, 0, 0, -2, -2, -2]
    assert torch.equal(limit(values, channels)[:, 4:], values[:, 4:])


def test_decoded_rain_is_never_negative(codec: WeatherCodec) -> None:
    """Latents far outside the training data decode to physical values."""
    z = 20 * torch.randn(8, 8, 2, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        values = dict(zip([c.code for c in codec.channels], codec.decode(z).unbind(1), strict=True))
    assert float(values["tp06"].min()) == 0 and float(values["q500"].min()) == 0 and float(values["u500"].min()) < -50


def test_unusable_fields_are_named(codec: WeatherCodec, states: Tensor) -> None:
    """A wrong shape states the right one; NaN and infinity name their channels."""
    with pytest.raises(ValueError, match=r"shape \[B, 6, 8, 16\]; got \(1, 6, 16, 8\)"):
        codec.encode(states[:1].transpose(-1, -2))
    broken = states[:1].clone()
    broken[0, 0, 0, 0], broken[0, 5, 1, 1] = float("nan"), float("inf")
    with pytest.raises(ValueError, match="NaN or infinity in z500, tp06"):
        codec.encode(broken)


def test_meta_and_tensors_rebuild_the_codec(codec: WeatherCodec, states: Tensor) -> None:
    """JSON values and tensors hold everything but the weights: the rebuilt codec has the same bits."""
    meta = json.loads(json.dumps(codec.to_meta()))
    again = WeatherCodec.from_meta(codec.dcae, meta, codec.to_tensors()).eval()
    assert meta["family"] == "PrincipalDCAE" and set(codec.to_tensors()) == {"static", "orography", "center", "spread"}
    z = encoded(codec, states[:4])
    assert torch.equal(encoded(again, states[:4]), z)
    with torch.no_grad():
        assert torch.equal(again.decode(z), codec.decode(z))
