"""autoencoders.recipe on ERA5-like data: what the published codec needs, at a size that runs in a second."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autoencoders.dcae import DCAE
from autoencoders.recipe import CodecParams, CodecRecipe
from autoencoders.source import load_normalizer, read_static
from autoencoders.store import load_codec
from gen.data.normalize import Normalizer
from gen.data.statics import STATIC_NAMES, normalise_static
from gen.data.synthetic import era5_like
from gen.data.variables import parse_channel
from gen.grid import LatLonGrid

SURFACE = ["sea_surface_temperature", "total_precipitation_6hr"]
SST = 3
NETWORK = {
    "latent_channels": 4,
    "attention_head_dim": 8,
    "encoder_block_out_channels": [8, 16],
    "encoder_layers_per_block": [1, 1],
    "encoder_block_types": ["ResBlock", "EfficientViTBlock"],
    "encoder_qkv_multiscales": [[], [5]],
    "padding": "ladcast",
    "vector_channels": [],
}


@pytest.fixture(scope="module")
def ocean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return 60 hourly states of 5 channels on 9 x 16 with poles; the sea surface is NaN over land."""
    path = tmp_path_factory.mktemp("era5") / "era5.zarr"
    names = ("geopotential", "u_component_of_wind", "v_component_of_wind", *SURFACE)
    grid = LatLonGrid.equiangular(9, 16, poles=True)
    return era5_like(path, grid=grid, names=names, levels=[500], count=65, chunk=4)


@pytest.fixture(scope="module")
def params(ocean: Path) -> Any:
    def make(**changes: Any) -> CodecParams:
        values: dict[str, Any] = {
            "data": str(ocean),
            "upper": ["geopotential", "u_component_of_wind", "v_component_of_wind"],
            "levels": [500],
            "surface": SURFACE,
            "train": ["2020-01-01", "2020-01-03"],
            "valid": ["2020-01-03", "2020-01-04"],
            "static": list(STATIC_NAMES),
            "anomalies": False,
            "south_pole": False,
            "missing": {"sst": -2.0},
            "principal": False,
            "loss": "relative_l2",
            "reconstruct_static": True,
            "latent_penalty": 0.0,
            "latent_spread": 0.5,
            "states": 24,
            "dcae": NETWORK,
        }
        return CodecParams(**{**values, **changes})

    return make


@pytest.fixture(scope="module")
def recipe(params: Any) -> CodecRecipe:
    return CodecRecipe(params(), seed=0)


class Given:
    """Stand in for an autoencoder: keep what it is shown, return a given reconstruction."""

    def __init__(self, y: Tensor) -> None:
        self.y = y

    def encode(self, x: Tensor, static: Tensor) -> Tensor:
        self.x, self.static = x, static
        return torch.zeros(len(x), 4, 4, 8)

    def decode(self, z: Tensor, return_static: bool = False) -> Tensor:
        return self.y

    def __call__(self, x: Tensor, static: Tensor, noise: Any = None) -> tuple[Tensor, Tensor]:
        return self.encode(x, static), self.y


@pytest.mark.parametrize("loss", ["relative_l2", "persistence"])
def test_land_has_no_loss_and_no_gradient(params: Any, loss: str) -> None:
    """Where sea-surface temperature is NaN its gradient is exactly zero, elsewhere it is not; the loss is finite."""
    recipe = CodecRecipe(params(loss=loss, reconstruct_static=loss == "relative_l2"), seed=0)
    batch = recipe.reader.read(slice(0, 3))
    land = torch.isnan(batch[:, SST, 1:])
    assert 0 < int(land.sum()) < land.numel()
    y = torch.randn(3, 10 if loss == "relative_l2" else 5, 8, 16, generator=torch.Generator().manual_seed(0))
    y.requires_grad_(True)
    value, _ = recipe.loss(Given(y), batch, torch.Generator())  # type: ignore[arg-type]
    value.backward()
    assert bool(value.isfinite()) and y.grad is not None
    assert bool((y.grad[:, SST][land] == 0).all()) and bool((y.grad[:, SST][~land] != 0).all())
    assert bool((y.grad[:, 0] != 0).all())
    moved = y.detach().clone()
    moved[:, SST][land] += 7.0
    assert float(recipe.loss(Given(moved), batch, torch.Generator())[0]) == float(value)  # type: ignore[arg-type]


def test_the_relative_error_is_that_of_the_paper(params: Any) -> None:
    """Mean over samples and channels, static ones too, of |x - y| / |y|, in numpy; -2 stands for land in the norm."""
    recipe = CodecRecipe(params(latitude_weights=False), seed=0)
    batch = recipe.reader.read(slice(5, 8))
    y = torch.randn(3, 10, 8, 16, generator=torch.Generator().manual_seed(1))
    value, parts = recipe.loss(Given(y), batch, torch.Generator())  # type: ignore[arg-type]
    x = recipe.normalizer.forward(batch[..., 1:, :]).double().numpy()
    land = np.isnan(x[:, SST])
    x[:, SST][land] = -2.0
    target = np.concatenate([x, np.broadcast_to(recipe.static.double().numpy(), (3, 5, 8, 16))], axis=1)
    error = y.double().numpy() - target
    error[:, SST][land] = 0.0
    norms = [np.sqrt((f**2).sum((2, 3))) for f in (error, target)]
    assert float(value) == pytest.approx((norms[0] / norms[1]).mean(), rel=1e-5)
    assert float(parts["relative_l2"]) == float(value)


def test_a_channel_without_error_has_a_finite_gradient(recipe: CodecRecipe) -> None:
    """The root of the relative error has no slope at zero: a perfect reconstruction gives zeros, not NaN."""
    batch = recipe.reader.read(slice(0, 2))
    y = torch.cat([recipe.anomalies(batch), recipe.static.expand(2, -1, -1, -1)], dim=1).requires_grad_(True)
    recipe.loss(Given(y), batch, torch.Generator())[0].backward()  # type: ignore[arg-type]
    assert y.grad is not None and bool((y.grad == 0).all())


def test_samples_are_turned_with_their_static_fields(params: Any) -> None:
    """With `roll` each sample is its own turn in longitude, the same for fields, land and static fields."""
    recipe = CodecRecipe(params(roll=True), seed=0)
    batch, model = recipe.reader.read(slice(0, 4)), Given(torch.zeros(4, 10, 8, 16))
    recipe.loss(model, batch, torch.Generator().manual_seed(3))  # type: ignore[arg-type]
    plain, turns = recipe.anomalies(batch), []
    for k in range(4):
        fits = [s for s in range(16) if torch.equal(model.x[k], plain[k].roll(s, -1))]
        assert len(fits) == 1 and torch.equal(model.static[k], recipe.static.roll(fits[0], -1))
        turns += fits
    assert len(set(turns)) > 1


def test_static_fields_are_normalised_without_the_pole(recipe: CodecRecipe) -> None:
    """Rows from -67.5 on, each field with its own mean and deviation over them."""
    assert recipe.static.shape == (5, 8, 16) and recipe.grid.latitude[0] == -67.5
    expected = normalise_static(recipe.reader.static_field(STATIC_NAMES))  # type: ignore[union-attr]
    assert torch.equal(recipe.static, expected)
    whole = read_static(recipe.reader, ["land_sea_mask"])
    assert whole.shape == (1, 9, 16) and float(whole.mean()) == pytest.approx(0, abs=1e-6)


def test_persistence_is_measured_over_six_hours(recipe: CodecRecipe) -> None:
    """The RMS change between hourly states six rows apart, not between neighbours."""
    x = recipe.anomalies(recipe.reader.read(slice(0, 16)))
    change = ((x[6:] - x[:-6]).square() * recipe.area).sum((-2, -1)).mean(0).sqrt()
    hourly = (torch.diff(x, dim=0).square() * recipe.area).sum((-2, -1)).mean(0).sqrt()
    assert bool((recipe.persistence > 3 * hourly).all())
    torch.testing.assert_close(recipe.persistence, change, rtol=0.4, atol=0)


def test_the_exported_codec_masks_and_restores(recipe: CodecRecipe, tmp_path: Path) -> None:
    """The folder encodes states with NaN, gives latents of deviation 0.5 and writes NaN over land on all nine rows.

    The deviation is taken from three of the 48 states: 10 %.
    """
    torch.manual_seed(0)
    recipe.export(recipe.model(), tmp_path / "codec")
    codec = load_codec(tmp_path / "codec")
    states = torch.cat([recipe.reader.read(slice(a, a + 8)) for a in range(0, 48, 8)])
    with torch.no_grad():
        z = codec.encode(states)
        back = codec.decode(z[:1])
    torch.testing.assert_close(z.std((0, 2, 3)), torch.full((4,), 0.5), rtol=0.1, atol=0)
    assert back.shape == (1, 5, 9, 16)
    assert torch.equal(torch.isnan(back[0, SST]), torch.isnan(states[0, SST])) and not torch.isnan(back[0, 0]).any()


def test_fine_tuning_starts_at_stage_one_and_keeps_the_encoder(params: Any, tmp_path: Path) -> None:
    """Before the first step all bits are stage 1's; after two the decoder has moved and the encoder has not."""
    from gen.engine import EngineConfig, RunConfig, Trainer

    def run(out: str, recipe: CodecRecipe) -> dict[str, Tensor]:
        engine = EngineConfig(steps=2, batch_size=2, cpu=True, tensorboard=False, ema=["power:0.1"])
        return load_codec(
            Trainer(RunConfig(recipe="codec", out=str(tmp_path / out), engine=engine), recipe).fit()
        ).dcae.state_dict()

    first = run("one", CodecRecipe(params(), seed=0))
    tuned = CodecRecipe(params(start_from=str(tmp_path / "one" / "export"), freeze=["encoder"]), seed=0)
    start = tuned.model().state_dict()
    assert all(torch.equal(start[name], value) for name, value in first.items())
    second = run("two", tuned)
    changed = {name.partition(".")[0] for name, value in first.items() if not torch.equal(second[name], value)}
    assert changed == {"decoder"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"freeze": ["encodr"]}, "freeze names 'encodr', which is no part of DCAE"),
        ({"missing": {"msl": 0.0}}, "missing names msl, which the codec does not have"),
        ({"grid": [121, 240]}, r"grid must be that of the data, \[9, 16\]; got \[121, 240\]"),
        ({"loss": "l3"}, "loss must be one of persistence, relative_l2; got 'l3'"),
        ({"principal": True}, "reconstruct_static needs loss: relative_l2 and principal: false"),
        ({"normalizer": "nowhere.json"}, "nowhere.json cannot be read"),
        ({"normalizer": "no_package_here:a.json"}, "no_package_here:a.json cannot be read"),
        ({"static_source": "nowhere"}, "nowhere"),
        ({"latent_spread": 0.0}, "latent_spread must be positive"),
    ],
)
def test_settings_that_do_not_fit_are_refused(params: Any, change: dict[str, Any], message: str) -> None:
    """One line, before training."""
    with pytest.raises(ValueError, match=message):
        CodecRecipe(params(**change), seed=0).model()


def test_recomputed_blocks_give_the_same_gradients(params: Any) -> None:
    """Gradient checkpointing changes memory, not numbers: equal bits on the CPU, also under bfloat16."""
    gradients = []
    for checkpointing in (False, True):
        recipe = CodecRecipe(params(checkpointing=checkpointing), seed=0)
        torch.manual_seed(0)
        model, batch = recipe.model(), recipe.reader.read(slice(0, 2))
        with torch.autocast("cpu", torch.bfloat16):
            loss, _ = recipe.loss(model, batch, torch.Generator())
        loss.backward()
        gradients.append([p.grad for p in model.parameters()])
        assert bool(loss.isfinite())
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))  # type: ignore[arg-type]


def test_gradients_at_the_pole_rows_are_exact(params: Any) -> None:
    """The slope of the loss along a direction of all weights equals its central difference, in float64: 1e-6.

    The error counts in the first and last row alone, where the published code loses the gradient of the weights.
    """
    torch.manual_seed(0)
    model = DCAE(in_channels=5, out_channels=5, **NETWORK).double()
    x = torch.randn(1, 5, 8, 16, dtype=torch.float64)
    direction = [torch.randn_like(p) for p in model.parameters()]

    def loss(model: nn.Module) -> Tensor:
        return model(x)[1][:, :, [0, -1]].square().mean()

    loss(model).backward()
    slope = sum(float((p.grad * d).sum()) for p, d in zip(model.parameters(), direction, strict=True))
    values, h = [], 1e-7  # small enough for the third derivative along thousands of weights
    for sign in (1, -2):
        with torch.no_grad():
            for p, d in zip(model.parameters(), direction, strict=True):
                p += sign * h * d
            values.append(float(loss(model)))
    assert slope == pytest.approx((values[0] - values[1]) / (2 * h), rel=1e-6)


def test_a_normalisation_comes_from_a_file(tmp_path: Path) -> None:
    """A table of a package, `Normalizer.to_dict` and a model's codec.json give the same statistics; gaps are named."""
    channels = [parse_channel(c) for c in ("tp06", "z500")]
    found = load_normalizer("forecast:ladcast_statistics.json", channels)
    assert found.channels == tuple(channels)
    assert found.mean[1] == pytest.approx(54080.28) and found.std[1] == pytest.approx(3365.2559)
    for document in (found.to_dict(), {"normalizer": found.to_dict()}):
        (tmp_path / "n.json").write_text(json.dumps(document))
        again = load_normalizer(str(tmp_path / "n.json"), channels[:1])
        assert isinstance(again, Normalizer) and float(again.std[0]) == float(found.std[0])
    with pytest.raises(ValueError, match=r"n.json has no statistics of 2t"):
        load_normalizer(str(tmp_path / "n.json"), [parse_channel("2t")])
    (tmp_path / "n.json").write_text("[]")
    with pytest.raises(ValueError, match=r"n.json holds no normalisation"):
        load_normalizer(str(tmp_path / "n.json"), channels)
