"""forecast.recipe: windows of latents become a trained, sampled and exported model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from torch import nn

from autoencoders.latents import LatentStore
from diffusion.samplers import build_sampler
from forecast.model import ForecastModel
from forecast.recipe import ForecastParams, ForecastRecipe, WindowStream
from gen.hub import open_model

SEGMENT = 40  # states of each of the two segments


@pytest.fixture(scope="module")
def store(workshop: Path, tiny: ModuleType) -> LatentStore:
    return LatentStore(workshop / "latents.zarr", "2020-01-01", tiny.END)


@pytest.fixture(scope="module")
def recipe(workshop: Path, tiny: ModuleType) -> ForecastRecipe:
    return ForecastRecipe(tiny.forecast_params(workshop), seed=0)


def indices(store: LatentStore, batch: dict[str, torch.Tensor]) -> list[int]:
    return [int(np.flatnonzero(store.hours == h)[0]) for h in batch["hours"].numpy()]


def test_windows_stay_inside_a_segment(store: LatentStore) -> None:
    """Every index whose window fits into its segment is a start, and no other."""
    for frames in (1, 2, 7):
        inside = [i for i in range(2 * SEGMENT) if i // SEGMENT == (i + frames) // SEGMENT and i + frames < 2 * SEGMENT]
        assert store.starts(frames).tolist() == inside
    assert store.starts(SEGMENT).size == 0 and store.starts(1000).size == 0


def test_windows_never_touch_missing_states(workshop: Path, tmp_path: Path, tiny: ModuleType) -> None:
    """A chunk that was never encoded breaks windows like the end of a segment."""
    shutil.copytree(workshop / "latents.zarr", tmp_path / "holed.zarr")
    group: Any = zarr.open_group(tmp_path / "holed.zarr", mode="r+")
    group["latent"][50:60] = np.nan
    starts = LatentStore(tmp_path / "holed.zarr", "2020-01-01", tiny.END).starts(2)
    touched = {i for i in range(80) if set(range(i, i + 3)) & set(range(50, 60))}
    assert set(starts.tolist()) == set(range(38)) | (set(range(40, 78)) - touched)


def test_a_window_holds_what_its_clock_says(store: LatentStore) -> None:
    """The states of a batch are those of the store at its hours, one after the other."""
    batch = next(iter(WindowStream(store, 2, 5, seed=0)))
    assert batch["latent"].shape == (5, 3, 16, 4, 8) and batch["latent"].dtype == torch.float32
    for row, i in enumerate(indices(store, batch)):
        assert torch.equal(batch["latent"][row], store.latent[i : i + 3].float())


def test_an_epoch_shows_every_window_once(store: LatentStore) -> None:
    """All but the incomplete last batch, in an order that changes with epoch and seed."""
    count = store.starts(2).size // 8
    stream = iter(WindowStream(store, 2, 8, seed=0))
    epochs = [[i for _ in range(count) for i in indices(store, next(stream))] for _ in range(2)]
    assert len(set(epochs[0])) == 8 * count and epochs[0] != epochs[1]
    other = iter(WindowStream(store, 2, 8, seed=1))
    assert indices(store, next(other)) != epochs[0][:8]


def test_processes_share_an_epoch(store: LatentStore) -> None:
    """Two processes see disjoint windows, together those of one process with twice the batch."""
    whole = iter(WindowStream(store, 2, 8, seed=0))
    halves = [iter(WindowStream(store, 2, 4, seed=0, rank=r, world=2)) for r in (0, 1)]
    for _ in range(9):
        parts = [i for half in halves for i in indices(store, next(half))]
        assert parts == indices(store, next(whole))


def test_a_resumed_stream_goes_on(store: LatentStore) -> None:
    """A stream restored at any batch, also at the end of an epoch, gives the batches of the unbroken one."""
    unbroken, states, batches = WindowStream(store, 2, 16, seed=4), [], []
    for _, batch in zip(range(11), unbroken, strict=False):
        states.append(unbroken.state_dict())
        batches.append(batch)
    for k in (0, 3, 4, 8):
        resumed = WindowStream(store, 2, 16, seed=4)
        resumed.load_state_dict(states[k])
        for expected, batch in zip(batches[k + 1 :], resumed, strict=False):
            assert torch.equal(batch["latent"], expected["latent"]) and torch.equal(batch["hours"], expected["hours"])


def test_a_resumed_loader_goes_on(recipe: ForecastRecipe) -> None:
    """The same through the stateful loader that the trainer saves."""
    loader = recipe.train_loader(8)
    batches = []
    for k, batch in enumerate(loader):
        batches.append(batch)
        if k == 3:
            state = loader.state_dict()
        if k == 8:
            break
    again = recipe.train_loader(8)
    again.load_state_dict(state)
    for expected, batch in zip(batches[4:], again, strict=False):
        assert torch.equal(batch["latent"], expected["latent"])


def test_targets_have_unit_variance(recipe: ForecastRecipe, store: LatentStore) -> None:
    """Increments in units of step_std, here over all windows; half precision of the latents bounds the difference."""
    windows = WindowStream(store, 2, 1, seed=0).window(store.starts(2))
    target = recipe.target(windows["latent"])
    assert target.shape == (76, 16, 2, 4, 8)
    torch.testing.assert_close(target.std((0, 3, 4)), torch.ones(16, 2), rtol=1e-3, atol=0)
    back = windows["latent"][:, :1] + (target * recipe.step_std).transpose(1, 2)
    torch.testing.assert_close(back, windows["latent"][:, 1:], rtol=0, atol=1e-5)


def test_the_loss_is_a_function_of_its_generator(recipe: ForecastRecipe) -> None:
    """Same weights, batch and generator: same loss; it falls when a model is trained on one batch."""
    torch.manual_seed(0)
    model, batch = recipe.model(), next(iter(recipe.train_loader(16)))
    seeded = [float(recipe.loss(model, batch, torch.Generator().manual_seed(s))[0].detach()) for s in (0, 0, 1)]
    assert seeded[0] == seeded[1] != seeded[2]
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(40):
        loss, _ = recipe.loss(model, batch, torch.Generator().manual_seed(0))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize("change", [{"precondition": {"name": "flow"}, "noise_level": {"name": "logitnormal"}},
                                    {"importance": 0.5}, {"condition_noise": 0.1}])  # fmt: skip
def test_variants_of_the_loss_are_finite(workshop: Path, tiny: ModuleType, change: dict[str, Any]) -> None:
    """Flow matching, weighted channels and noisy starts train and validate."""
    sampling = {"sampler": "flow_euler", "steps": 2} if "precondition" in change else tiny.SAMPLING
    other = ForecastRecipe(tiny.forecast_params(workshop, sampling=sampling, **change), seed=0)
    model, batch = other.model(), next(iter(other.train_loader(4)))
    loss, _ = other.loss(model, batch, torch.Generator().manual_seed(0))
    loss.backward()
    assert bool(loss.isfinite()) and all(np.isfinite(v) for v in other.validate(model).values())


def test_validation_knows_a_calibrated_ensemble(recipe: ForecastRecipe) -> None:
    """With F = 0 the ensemble is the climate of increments: members are as far from each other as from the truth.

    RMSE of a mean of four is sqrt(1.25) of the climate's deviation and the spread-skill ratio is one; 24 starts leave
    15 % of sampling error. The sampler's two steps alone lose some spread, so the exact noise is taken.
    """
    recipe = ForecastRecipe(
        ForecastParams(**{**vars(recipe.params), "sampling": {"sampler": "heun", "steps": 40}}), seed=0
    )
    model = recipe.model()
    for parameter in model.network.network.proj_out.parameters():  # type: ignore[union-attr]
        nn.init.zeros_(parameter)
    scores = recipe.validate(model)
    for frame in (1, 2):
        assert scores[f"rmse/frame{frame}"] == pytest.approx(1.25**0.5, rel=0.15)
        assert scores[f"spread_skill/frame{frame}"] == pytest.approx(1.0, abs=0.15)


def test_the_exported_folder_is_the_trained_model(recipe: ForecastRecipe, tmp_path: Path, workshop: Path) -> None:
    """Weights, step_std, sampling defaults and codec arrive in the folder that `gen sample` opens."""
    torch.manual_seed(0)
    denoiser = recipe.model()
    recipe.export(denoiser, tmp_path / "model")
    model = ForecastModel.load(tmp_path / "model")
    trained = denoiser.network.network.state_dict()  # type: ignore[union-attr]
    assert all(torch.equal(value, trained[name]) for name, value in model.network.state_dict().items())
    torch.testing.assert_close(model.step_std, recipe.step_std)
    assert model.meta.sampling.steps == 2 and model.meta.frames == 2 and model.meta.name == "tiny"
    weights = "codec/diffusion_pytorch_model.safetensors"
    assert (tmp_path / "model" / weights).read_bytes() == (workshop / "codec" / weights).read_bytes()
    networks = ForecastRecipe.networks(recipe.params)
    assert {k: tuple(v.shape) for k, v in networks["dynamics"].state_dict().items()} == {
        k: tuple(v.shape) for k, v in trained.items()
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"step_hours": 9}, "step_hours must be a multiple of the 6 h between latents; got 9"),
        ({"frames": 0}, "frames and step_hours must be at least 1"),
        ({"frames": 60}, "train holds no 61 states in a row"),
        ({"valid": ["2021-01-01", "2022-01-01"]}, r"has no latents in \[2021-01-01, 2022-01-01\)"),
        ({"condition_noise": -1.0}, "condition_noise must be at least 0"),
        ({"precondition": {"name": "edn"}}, "unknown preconditioning 'edn'"),
        ({"target": "state"}, "target must be one of increments, states; got 'state'"),
        ({"latent": {"channels": 84}}, "latent must be {channels, rows, columns}; got channels"),
        ({"latent": {"channels": 84, "rows": 15, "columns": 30}}, "latent must be {'channels': 16, 'rows': 4"),
    ],
)
def test_settings_that_do_not_fit_the_data_are_refused(
    workshop: Path, tiny: ModuleType, change: dict[str, Any], message: str
) -> None:
    """One line, before training."""
    with pytest.raises(ValueError, match=message):
        ForecastRecipe(tiny.forecast_params(workshop, **change), seed=0).model()


def test_latents_of_another_codec_are_refused(workshop: Path, tiny: ModuleType, tmp_path: Path) -> None:
    """The digest of the codec must be the one in the latents; too few windows for a batch are named."""
    shutil.copytree(workshop / "latents.zarr", tmp_path / "latents.zarr")
    path = tmp_path / "latents.zarr" / "zarr.json"
    text = json.loads(path.read_text())
    assert text["attributes"]["codec_sha256"] == open_model(workshop / "codec").digest
    text["attributes"]["codec_sha256"] = "0" * 64
    path.write_text(json.dumps(text))
    with pytest.raises(ValueError, match="encoded by another codec than"):
        ForecastRecipe(tiny.forecast_params(workshop, latents=str(tmp_path / "latents.zarr")), seed=0)
    with pytest.raises(ValueError, match="76 windows are fewer than one batch of 40 x 2"):
        ForecastRecipe(tiny.forecast_params(workshop), seed=0).train_loader(40, 0, 2)


PUBLISHED = {
    "target": "states",
    "folded": False,
    "precondition": {"name": "edm", "sigma_data": 1.0},
    "noise_level": {"name": "lognormal", "mean": -1.2, "std": 1.2},
    "network": {
        "design": "ladcast",
        "location": "none",
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "num_layers": 1,
        "num_single_layers": 1,
        "num_refiner_layers": 1,
        "rope_axes_dim": [4, 6, 6],
    },
}
FLOW = {
    "precondition": {"name": "flow"},
    "noise_level": {"name": "logitnormal"},
    "sampling": {"sampler": "flow_midpoint", "steps": 2},
}


@pytest.mark.parametrize("change", [{}, FLOW])
def test_diffusion_and_flow_learn_the_same_latents(workshop: Path, tiny: ModuleType, change: dict[str, Any]) -> None:
    """The published design with either preconditioning, in bfloat16: the loss of a batch falls by a third."""
    recipe = ForecastRecipe(tiny.forecast_params(workshop, **{**PUBLISHED, **change}), seed=0)
    torch.manual_seed(0)
    model, batch = recipe.model(), next(iter(recipe.train_loader(16)))
    optimiser = torch.optim.AdamW(model.parameters(), lr=5e-3)
    losses = []
    for _ in range(50):
        with torch.autocast("cpu", torch.bfloat16):
            loss, _ = recipe.loss(model, batch, torch.Generator().manual_seed(0))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert loss.dtype == torch.float32 and losses[-1] < 0.67 * losses[0]
    assert all(np.isfinite(v) for v in recipe.validate(model).values())


def test_states_are_their_own_target(workshop: Path, tiny: ModuleType) -> None:
    """With target "states" the network draws the latents themselves, and no step_std is stored."""
    recipe = ForecastRecipe(tiny.forecast_params(workshop, **PUBLISHED), seed=0)
    latent = recipe.train.windows(np.array([3]), 2)
    assert torch.equal(recipe.target(latent), latent[:, 1:].transpose(1, 2))


def test_a_model_of_states_is_exported_and_sampled(workshop: Path, tiny: ModuleType, tmp_path: Path) -> None:
    """Unfolded frames, the published design and its settings arrive in the folder; a call gives finite states."""
    recipe = ForecastRecipe(tiny.forecast_params(workshop, **PUBLISHED), seed=0)
    torch.manual_seed(0)
    trained = recipe.model()
    recipe.export(trained, tmp_path / "model")
    model = ForecastModel.load(tmp_path / "model")
    assert (model.meta.target, model.meta.folded, model.meta.step_std) == ("states", False, [])
    assert model.network.config.in_channels == 16 and model.network.config.design == "ladcast"
    weights = trained.network.state_dict()  # type: ignore[union-attr]
    assert all(torch.equal(value, weights[name]) for name, value in model.network.state_dict().items())
    window = recipe.train.windows(np.array([0]), 2)
    noise = torch.randn(1, 16, 2, 4, 8, generator=torch.Generator().manual_seed(0))
    hours = torch.from_numpy(recipe.train.hours[:1])
    with torch.no_grad():
        z = model.advance(window[:, 0], hours, noise, build_sampler("dpmpp_2m", 3))
        direct = build_sampler("dpmpp_2m", 3)(trained, noise, {"cond": window[:, 0, :, None], "hours": hours})
        fields = model.codec.decode(z[:, -1])
    assert z.shape == (1, 2, 16, 4, 8) and bool(torch.isfinite(fields).all())
    torch.testing.assert_close(z.transpose(1, 2), direct, rtol=1e-5, atol=1e-5)


def test_batches_from_disk_are_those_from_memory(workshop: Path, tiny: ModuleType) -> None:
    """`in_memory: false` changes where latents lie, not what is trained on."""
    batches = []
    for held in (True, False):
        recipe = ForecastRecipe(tiny.forecast_params(workshop, in_memory=held), seed=0)
        batches.append(next(iter(recipe.train_loader(8))))
        assert isinstance(recipe.train.latent, torch.Tensor) is held
    assert torch.equal(batches[0]["latent"], batches[1]["latent"])


def test_recomputed_blocks_give_the_same_gradients(workshop: Path, tiny: ModuleType) -> None:
    """Gradient checkpointing changes memory, not numbers: equal bits on the CPU."""
    gradients = []
    for checkpointing in (False, True):
        recipe = ForecastRecipe(tiny.forecast_params(workshop, checkpointing=checkpointing, **PUBLISHED), seed=0)
        torch.manual_seed(0)
        model, batch = recipe.model(), next(iter(recipe.train_loader(4)))
        recipe.loss(model, batch, torch.Generator().manual_seed(0))[0].backward()
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    assert len(gradients[0]) > 20 and all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_a_wrong_spread_is_said(workshop: Path, tiny: ModuleType, caplog: pytest.LogCaptureFixture) -> None:
    """Latents of unit variance do not fit sigma_data 0.2: one line in the log."""
    change = {**PUBLISHED, "precondition": {"name": "edm", "sigma_data": 0.2}}
    with caplog.at_level("WARNING"):
        ForecastRecipe(tiny.forecast_params(workshop, **change), seed=0)
    assert "but sigma_data is 0.20" in caplog.text
