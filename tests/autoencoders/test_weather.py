"""autoencoders.weather: physical fields to normalised latents and back, within physical limits, poles and gaps kept."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from autoencoders.base import LatentSpec
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


GLOBE = LatLonGrid.equiangular(121, 240, poles=True)  # the grid of the published weights; they see 120 rows of it
CODES = ("t850", "u850", "v850", "sst", "tp06")
MEAN, STD = torch.tensor([270.0, 0.0, 0.0, 286.533, 6e-4]), torch.tensor([15.0, 9.0, 9.0, 11.719, 1.7e-3])


class Transparent(torch.nn.Module):
    """Stands in for an autoencoder that loses nothing: the latent is the normalised field."""

    latent_channels = len(CODES)

    def encode(self, x: Tensor, static: Tensor | None = None) -> Tensor:
        return x

    def decode(self, z: Tensor, channels: Any = None) -> Tensor:
        return z if channels is None else z[:, list(channels)]

    def latent_spec(self, grid: tuple[int, int]) -> LatentSpec:
        return LatentSpec.for_grid(self.latent_channels, 1, grid)


def polar(**changes: Any) -> WeatherCodec:
    """Return a codec that works without the row at the South Pole, on five channels of the published grid."""
    settings: dict[str, Any] = {"south_pole": False, "missing": {"sst": -2.0}, "land": land()} | changes
    normalizer = Normalizer(tuple(parse_channel(c) for c in CODES), MEAN, STD)
    return WeatherCodec(Transparent(), normalizer, GLOBE, **settings)  # type: ignore[arg-type]


def land() -> Tensor:
    """Return land south of 60 S and between 10 and 40 E."""
    lat, lon = torch.from_numpy(GLOBE.latitude.copy()), torch.from_numpy(GLOBE.longitude.copy())
    return (lat[:, None] < -60) | ((lon > 10) & (lon < 40))[None, :]


def weather() -> Tensor:
    """Return an analytic state: temperature linear in the place on the sphere, the wind of a solid rotation.

    With x, y, z = cos lat cos lon, cos lat sin lon, sin lat: T = 260 + 8 z + 5 x - 3 y, and the wind w x r of the
    rotation w = (7, -4, 2) m/s, which is uniform over the pole: its speed there is |(7, -4)| at every longitude.
    """
    lat, lon = np.meshgrid(np.deg2rad(GLOBE.latitude), np.deg2rad(GLOBE.longitude), indexing="ij")
    x, y, z = np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)
    u = -np.sin(lat) * (7 * np.cos(lon) - 4 * np.sin(lon)) + 2 * np.cos(lat)
    v = 7 * np.sin(lon) + 4 * np.cos(lon)
    sst = np.where(land().numpy(), np.nan, 272 + 28 * np.cos(lat) ** 2)
    rain = 1e-3 * (1 + 2 * x)
    return torch.from_numpy(np.stack([260 + 8 * z + 5 * x - 3 * y, u, v, sst, rain]))[None].float()


def test_the_row_at_the_south_pole_comes_back() -> None:
    """121 rows in, 120 inside, 121 out. Extrapolation from 88.5 and 87 S is exact up to r^4 / 6 = 8e-8 of the field for
    spherical harmonics of degree one (0.026 rad per row); a scalar has one value along the pole, bit for bit."""
    codec, truth = polar(), weather()
    with torch.no_grad():
        z = codec.encode(truth)
        back = codec.decode(z)
    assert z.shape == (1, 5, 120, 240) == (1, *codec.latent_shape) and codec.network_grid.shape == (120, 240)
    assert back.shape == truth.shape and bool((np.diff(codec.grid.latitude) > 0).all())
    error = (back - truth)[0, :, 0].abs().amax(-1)
    assert float(error[0]) < 1e-4 and float(error[1]) < 1e-5 and float(error[2]) < 1e-5
    torch.testing.assert_close(torch.hypot(back[0, 1, 0], back[0, 2, 0]), torch.full((240,), 65**0.5))
    assert torch.equal(back[0, 0, 0], back[0, 0, 0, :1].expand(240))
    torch.testing.assert_close(back[:, :3, 1:], truth[:, :3, 1:], rtol=1e-6, atol=1e-5)


def test_the_pole_does_not_depend_on_the_other_channels() -> None:
    """Decoded alone or with others, in a batch or alone, a channel has the same bits at the pole."""
    codec = polar()
    z = torch.randn(3, 5, 120, 240, generator=torch.Generator().manual_seed(0))
    whole = codec.decode(z)
    for channel in range(5):
        some = codec.decode(z[1:2], [channel])
        assert torch.equal(some.nan_to_num(-1), whole[1:2, [channel]].nan_to_num(-1))


def test_only_the_channels_asked_for_are_computed() -> None:
    """The last layer of a published-style autoencoder writes two channels, never the static ones; rounding aside, the
    values are the same."""
    torch.manual_seed(0)
    dcae = DCAE(
        in_channels=7, out_channels=7, static_channels=2, latent_channels=4, encoder_block_out_channels=[4, 4],
        encoder_layers_per_block=[0, 0], padding="ladcast",
    ).eval()  # fmt: skip
    normalizer = Normalizer(tuple(parse_channel(c) for c in CODES), MEAN, STD)
    codec = WeatherCodec(dcae, normalizer, GLOBE, static=torch.zeros(2, 120, 240), south_pole=False)
    written: list[int] = []
    dcae.decoder.conv_out.register_forward_hook(lambda module, args, out: written.append(out.shape[1]))
    with torch.no_grad():
        z = codec.encode(weather().nan_to_num(280))
        whole = codec.decode(z)
        some = codec.decode(z, [4, 1])
    assert written == [5, 2]
    torch.testing.assert_close(some, whole[:, [4, 1]], rtol=1e-5, atol=1e-5)


def test_sea_surface_temperature_exists_over_the_sea_only() -> None:
    """NaN goes in where there is land and comes out exactly there; every other channel and cell is finite.

    The original leaves 286.53 - 2 x 11.72 = 263.1 K over land, has no row at the pole, and negative rain.
    """
    codec, truth = polar(), weather()
    with torch.no_grad():
        z = codec.encode(truth)
        back = codec.decode(z)
        original = codec.normalizer.inverse(codec.dcae.decode(z))  # z * std + mean, and nothing else
    assert original.shape[-2] == 120 and float(original[0, 4].min()) < -9e-4
    assert original[0, 3][land()[1:]].tolist() == pytest.approx([263.095] * int(land()[1:].sum()), abs=1e-2)
    assert torch.equal(torch.isnan(back[0, 3]), land()) and not bool(torch.isnan(back[0, [0, 1, 2, 4]]).any())
    assert float(back[0, 4].min()) == 0 and back.shape[-2] == 121
    torch.testing.assert_close(back[0, 3][~land()], truth[0, 3][~land()])
    assert bool(torch.isfinite(codec.decode(z, [0])).all())


def test_nan_is_accepted_where_it_has_a_meaning() -> None:
    """A channel without a "no data" value still refuses NaN, and infinity is refused everywhere."""
    codec, state = polar(), weather()
    state[0, 3, 5, 5] = float("inf")
    state[0, 0, 7, 7] = float("nan")
    with pytest.raises(ValueError, match="NaN or infinity in t850, sst"):
        codec.encode(state)
    with pytest.raises(ValueError, match="NaN or infinity in sst"):
        polar(missing={}).encode(weather())


def test_gaps_and_pole_are_kept_with_the_codec() -> None:
    """Meta data and tensors rebuild both; documents from before they existed mean a codec without them."""
    codec, z = polar(), torch.randn(1, 5, 120, 240, generator=torch.Generator().manual_seed(3))
    meta = json.loads(json.dumps(codec.to_meta()))
    again = WeatherCodec.from_meta(codec.dcae, meta, codec.to_tensors())
    assert torch.equal(again.decode(z).nan_to_num(-9), codec.decode(z).nan_to_num(-9))
    old = {key: value for key, value in meta.items() if key not in ("south_pole", "missing")}
    plain = WeatherCodec.from_meta(codec.dcae, old, {})
    assert plain.south_pole and plain.missing == {} and plain.network_grid == GLOBE


def test_parts_that_do_not_belong_together_are_refused() -> None:
    """A gap in a channel that is not there, a mask of another grid, a pole that the grid does not have."""
    with pytest.raises(ValueError, match="missing names 2t"):
        polar(missing={"2t": 0.0})
    with pytest.raises(ValueError, match="land must lie on 121 x 240; got \\(120, 240\\)"):
        polar(land=land()[1:])
    with pytest.raises(ValueError, match="static must lie on 120 x 240"):
        polar(static=torch.zeros(2, 121, 240))
    normalizer = Normalizer((parse_channel("2t"),), MEAN[:1], STD[:1])
    with pytest.raises(ValueError, match="must begin at -90; got -78"):
        WeatherCodec(Transparent(), normalizer, LatLonGrid.equiangular(8, 16), south_pole=False)  # type: ignore[arg-type]
