"""autoencoders.recipe: statistics, loss and validation of a codec mean what they say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr

from autoencoders.dcae import DCAE
from autoencoders.principal import PrincipalDCAE
from autoencoders.recipe import CodecRecipe
from autoencoders.store import load_codec
from gen.data.variables import parse_channel

CHANNELS = tuple(parse_channel(c) for c in ("z500", "u500", "v500", "q500", "2t", "tp06"))


@pytest.fixture(scope="module")
def anomalies(recipe: CodecRecipe) -> np.ndarray:
    """All states as the autoencoder sees them, computed here from the Zarr store in float64 with numpy alone."""
    group: Any = zarr.open_group(recipe.params.data, mode="r")
    raw = [np.asarray(group[c.name], float) for c in CHANNELS]
    x = np.stack([r[:, 0] if r.ndim == 4 else r for r in raw], axis=1)
    x[:, 5] = np.log1p(x[:, 5] / 1e-3)
    x = (x - x.mean((0, 2, 3), keepdims=True)) / x.std((0, 2, 3), keepdims=True)
    x = x - x.mean(0)
    weight = recipe.reader.grid.area_weights()
    return x / np.sqrt((x**2 * weight).sum((2, 3), keepdims=True).mean(0))


def test_the_autoencoder_sees_anomalies_of_unit_variance(recipe: CodecRecipe, anomalies: np.ndarray) -> None:
    """Normalisation, mean field and spread equal those of an independent computation over all states."""
    assert recipe.channels == CHANNELS
    got = recipe.anomalies(recipe.reader.read(slice(0, 96))).numpy()
    np.testing.assert_allclose(got, anomalies, rtol=0, atol=2e-4)


def test_persistence_is_the_six_hour_change_within_segments(recipe: CodecRecipe, anomalies: np.ndarray) -> None:
    """RMS over the sphere of the difference of neighbouring states; the jump between two segments does not count.

    Changes are taken inside chunks of 16, so that two of 94 pairs are left out: 2 %.
    """
    weight = recipe.reader.grid.area_weights()
    change = ((np.diff(anomalies, axis=0) ** 2) * weight).sum((2, 3))
    inside = np.delete(change, 47, axis=0)
    np.testing.assert_allclose(recipe.persistence.numpy(), np.sqrt(inside.mean(0)), rtol=0.02)
    assert (change[47] > 3 * inside.mean(0)).any()


def test_samples_never_cross_segments(params: Any) -> None:
    """An interval that begins inside a chunk gives whole chunks of the store, fewer when fewer states are asked for."""
    late = CodecRecipe(params(train=["2020-01-02", "2020-01-25"]), seed=0)
    pieces = list(late._sample(late.train_range))
    assert [len(p) for p in pieces] == [16] * 5
    assert torch.equal(pieces[0], late.reader.read(slice(16, 32)))
    few = CodecRecipe(params(states=32), seed=0)
    assert [len(p) for p in few._sample(few.train_range)] == [16, 16]


def test_the_loss_starts_at_the_linear_error(recipe: CodecRecipe, anomalies: np.ndarray) -> None:
    """Before training the validation is the error of the best patch codec, here by SVD, in units of persistence.

    The components come from every fourth training state, the area-weighted error from every eighth state of the
    validation interval; float32 statistics leave 1 %.
    """
    model = recipe.model()
    assert isinstance(model, PrincipalDCAE)
    unit = recipe.persistence.double().numpy()
    places = [np.s_[:, :, i : i + 4, j : j + 4] for i in (0, 4) for j in (0, 4, 8, 12)]
    train, valid = anomalies[::4] / unit[:, None, None], anomalies[48::8] / unit[:, None, None]
    lead = np.linalg.svd(np.concatenate([train[p].reshape(24, -1) for p in places]), full_matrices=False)[2][:8]
    error = np.empty_like(valid)
    for p in places:
        patch = valid[p].reshape(6, -1)
        error[p] = (patch - patch @ lead.T @ lead).reshape(6, 6, 4, 4)
    best = np.sqrt((error**2 * recipe.reader.grid.area_weights()).sum((2, 3)).mean(0))
    scores = recipe.validate(model)
    got = np.array([scores[f"fraction/{c.code}"] for c in CHANNELS])
    np.testing.assert_allclose(got, best, rtol=0.01)
    assert scores["fraction/mean"] == pytest.approx(got.mean()) and scores["fraction/max"] == pytest.approx(got.max())


def test_the_loss_is_the_relative_error_and_a_penalty(recipe: CodecRecipe) -> None:
    """Weighted mean square in units of persistence plus 1e-4 times the mean square latent, by plain sums."""
    model, batch = recipe.model(), recipe.reader.read(slice(0, 5))
    loss, parts = recipe.loss(model, batch, torch.Generator())
    x = recipe.anomalies(batch)
    with torch.no_grad():
        z, y = model(x, recipe.static)
    weight = torch.from_numpy(recipe.reader.grid.area_weights())
    error = ((y - x).double() ** 2 * weight).sum((2, 3)).mean(0) / recipe.persistence.double() ** 2
    assert float(parts["relative_mse"]) == pytest.approx(float(error.mean()), rel=1e-5)
    assert float(loss.detach()) == pytest.approx(float(error.mean() + 1e-4 * (z**2).mean()), rel=1e-5)


def test_noise_on_latents_comes_from_the_generator(params: Any) -> None:
    """With `latent_noise` the loss is a function of the generator; without it the generator does not matter."""
    for level, same in ((0.0, True), (0.5, False)):
        recipe = CodecRecipe(params(latent_noise=level), seed=0)
        torch.manual_seed(0)
        model, batch = recipe.model(), recipe.reader.read(slice(0, 4))
        losses = [float(recipe.loss(model, batch, torch.Generator().manual_seed(s))[0].detach()) for s in (0, 0, 1)]
        assert losses[0] == losses[1] and (losses[0] == losses[2]) is same


def test_batches_are_states_of_the_training_interval(params: Any) -> None:
    """Every state of a batch lies in [begin, end); the loader resumes with the same batches."""
    recipe = CodecRecipe(params(train=["2020-01-05", "2020-01-13"]), seed=3)
    known = {s.numpy().tobytes() for s in recipe.reader.read(slice(16, 48))}
    loader, batches = recipe.train_loader(8), []
    for k, batch in enumerate(loader):
        batches.append(batch)
        if k == 2:
            state = loader.state_dict()
        if k == 6:
            break
    assert all(s.numpy().tobytes() in known for batch in batches for s in batch)
    again = recipe.train_loader(8)
    again.load_state_dict(state)
    for expected, batch in zip(batches[3:], again, strict=False):
        assert torch.equal(batch, expected)


def test_the_exported_codec_is_the_trained_model(recipe: CodecRecipe, tmp_path: Path) -> None:
    """Grid, channels, orography of the world and standardised latents arrive in the folder."""
    model = recipe.model()
    recipe.export(model, tmp_path / "codec")
    codec = load_codec(tmp_path / "codec")
    assert codec.channels == CHANNELS and codec.grid == recipe.reader.grid
    group: Any = zarr.open_group(recipe.params.data, mode="r")
    assert codec.orography is not None
    assert np.array_equal(codec.orography.numpy(), np.asarray(group["geopotential_at_surface"]))
    states = recipe.reader.read(slice(0, 8))
    with torch.no_grad():
        direct = model.encode(recipe.anomalies(states), recipe.static)
        z = codec.encode(states) * codec.latent_std[:, None, None] + codec.latent_mean[:, None, None]
    torch.testing.assert_close(z, direct, rtol=0, atol=1e-4)


def test_a_network_alone_is_possible(params: Any) -> None:
    """With `principal: false` the autoencoder is a plain DCAE whose winds turn over the poles."""
    model = CodecRecipe(params(principal=False), seed=0).model()
    assert isinstance(model, DCAE) and list(model.config["vector_channels"]) == [1, 2]
    sizes = {k: tuple(v.shape) for k, v in CodecRecipe.networks(params())["autoencoder"].state_dict().items()}
    assert sizes == {k: tuple(v.shape) for k, v in CodecRecipe(params(), seed=0).model().state_dict().items()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"levels": [700]}, r"lacks z700, u700, v700, q700; its levels are \[500\] hPa"),
        ({"surface": ["surface_pressure"]}, "lacks surface_pressure; it has 10m|lacks surface_pressure; it has 2m"),
        ({"surface": ["sea_level"]}, "unknown variable 'sea_level'"),
        ({"train": ["2021-01-01", "2022-01-01"]}, r"no times in \[2021-01-01, 2022-01-01\); the world covers 2020"),
        ({"train": ["2020-01-02", "2020-01-03"]}, "no data to fit"),
        ({"train": ["2020-01-02"]}, r"train must be \[begin, end\)"),
    ],
)
def test_settings_that_do_not_fit_the_world_are_refused(params: Any, change: dict[str, Any], message: str) -> None:
    """One line names what the world has."""
    with pytest.raises(ValueError, match=message):
        CodecRecipe(params(**change), seed=0)
