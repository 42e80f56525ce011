"""Train the latent dynamics: denoise increments of encoded trajectories (EDM, or flow matching by configuration)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["ForecastParams", "ForecastRecipe", "WindowStream"]

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import IterableDataset

from autoencoders.latents import LatentStore
from autoencoders.store import load_codec
from diffusion.build import build_noise_level, build_precondition
from diffusion.denoiser import Denoiser
from diffusion.dual_stream import DualStreamTransformer
from diffusion.losses import denoising_loss
from diffusion.samplers import build_sampler
from forecast.model import DynamicsMeta, FoldedFrames, ForecastModel, SamplingDefaults
from gen.grid import LatLonGrid
from gen.hub import open_model


@dataclass
class ForecastParams:
    """What to train on and what to train.

    Args:
        latents: Zarr store of `autoencoders.latents.encode_world`.
        codec: model folder of the codec that made them.
        train, valid: half-open calendar intervals [begin, end).
        frames: states generated per call; `step_hours`: hours between them.
        network: further arguments of `diffusion.dual_stream.DualStreamTransformer`.
        precondition: name and arguments of the preconditioning.
        noise_level: name and arguments of the training distribution of noise levels.
        importance: how much the loss follows what a latent channel is worth in the decoded fields, 0 (all same) to 1
            (squared error of the fields in units of their 6 h change). The least loss is reached by the same network
            for any value; a small network spends itself better with a large one.
        condition_noise: largest standard deviation, in units of one step's increment, of the noise on the starting
            state while training; each window draws its own level from 0 to this. Increments are counted from the noisy
            state, so that the network learns to undo small errors instead of carrying them along.
        sampling: sampler, steps, settings and block size stored as the model's defaults.
        trained_on: what the data are, in words; `simulated`: whether they are simulated.
        name: the model's name.
    """

    latents: str = ""
    codec: str = ""
    train: list[str] = field(default_factory=list)
    valid: list[str] = field(default_factory=list)
    frames: int = 4
    step_hours: int = 6
    network: dict[str, Any] = field(default_factory=dict)
    precondition: dict[str, Any] = field(default_factory=lambda: {"name": "edm", "sigma_data": 1.0})
    noise_level: dict[str, Any] = field(default_factory=lambda: {"name": "lognormal", "mean": 0.0, "std": 1.4})
    importance: float = 0.0
    condition_noise: float = 0.0
    sampling: dict[str, Any] = field(default_factory=dict)
    trained_on: str = ""
    simulated: bool = True
    name: str = "forecast"

    def __post_init__(self) -> None:
        """Check ranges."""
        if self.frames < 1 or self.step_hours < 1:
            raise ValueError(f"frames and step_hours must be at least 1; got {self.frames}, {self.step_hours}")
        if self.condition_noise < 0:
            raise ValueError(f"condition_noise must be at least 0; got {self.condition_noise}")


class WindowStream(IterableDataset[dict[str, Tensor]]):
    """Yield endless shuffled batches of windows {latent [B, T+1, C, h, w], hours [B]}; stateful."""

    def __init__(
        self, store: LatentStore, frames: int, batch_size: int, *, seed: int, rank: int = 0, world: int = 1
    ) -> None:
        """List every complete window."""
        self.store, self.frames, self.batch_size = store, frames, batch_size
        self.seed, self.rank, self.world = seed, rank, world
        self.starts = store.starts(frames)
        if len(self.starts) < batch_size * world:
            raise ValueError(f"{len(self.starts)} windows are fewer than one batch of {batch_size} x {world}")
        self.epoch, self.batch = 0, 0

    def state_dict(self) -> dict[str, int]:
        """Return the position of the next batch."""
        return {"epoch": self.epoch, "batch": self.batch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go to a position returned by `state_dict`."""
        self.epoch, self.batch = state["epoch"], state["batch"]

    def __iter__(self) -> Any:
        """Yield batches from the current position on, without end."""
        while True:
            rng = np.random.Generator(np.random.Philox(key=[self.seed, self.epoch]))
            order = rng.permutation(self.starts)
            whole = len(order) // (self.batch_size * self.world)
            mine = order[: whole * self.batch_size * self.world].reshape(whole, self.world, self.batch_size)
            while self.batch < whole:
                index = mine[self.batch, self.rank]
                self.batch += 1
                yield self.window(index)
            self.epoch, self.batch = self.epoch + 1, 0

    def window(self, index: np.ndarray) -> dict[str, Tensor]:
        """Return the windows that start at the given indices."""
        span = torch.from_numpy(index[:, None] + np.arange(self.frames + 1))
        return {"latent": self.store.latent[span].float(), "hours": torch.from_numpy(self.store.hours[index])}


class ForecastRecipe:
    """Recipe for `forecast.model.ForecastModel` (see `gen.engine.Recipe`)."""

    Params = ForecastParams

    def __init__(self, params: ForecastParams, seed: int) -> None:
        """Load the latents and measure the increments."""
        self.params, self.seed = params, seed
        self.train = LatentStore(params.latents, *params.train)
        self.valid = LatentStore(params.latents, *params.valid)
        if open_model(Path(params.codec)).digest != self.train.codec_hash:
            raise ValueError(f"{params.latents} was encoded by another codec than {params.codec}; encode it again")
        for name, store in (("train", self.train), ("valid", self.valid)):
            if not store.starts(params.frames).size:
                raise ValueError(f"{name} holds no {params.frames + 1} states in a row in {params.latents}")
        if (spacing := int(np.diff(self.train.hours).min())) != params.step_hours:
            raise ValueError(f"step_hours must be the {spacing} h between the latents; got {params.step_hours}")
        self.step_std = self._increments()
        self.noise_level = build_noise_level(**params.noise_level)
        self.codec = load_codec(Path(params.codec))
        self.rows, self.columns = _latent_axes(self.codec.grid, *self.train.latent.shape[2:])
        cosine = torch.cos(torch.deg2rad(torch.tensor(self.rows)))
        self.weights = (cosine / cosine.mean())[:, None]
        if params.importance:
            worth = self._worth() ** params.importance
            self.weights = self.weights * (worth / worth.mean())[:, None, None, None]

    def _increments(self) -> Tensor:
        """Return the standard deviation of z[k] - z[0], [C, T, 1, 1]."""
        starts = self.train.starts(self.params.frames)
        index = torch.from_numpy(starts[:: max(1, len(starts) // 1000)])
        first = self.train.latent[index].float()
        steps = [(self.train.latent[index + k + 1].float() - first).std((0, 2, 3)) for k in range(self.params.frames)]
        return torch.stack(steps, dim=1)[:, :, None, None]

    @torch.no_grad()
    def _worth(self) -> Tensor:
        """Return the mean square response of the decoded fields to an increment of each latent channel [C]."""
        codec, count = self.codec, self.train.latent.shape[1]
        z = self.train.latent[self.train.starts(1)[:: len(self.train.hours) // 4][:4]].float()
        z = z * codec.latent_std[:, None, None] + codec.latent_mean[:, None, None]
        scale = getattr(codec.dcae, "scale", torch.ones(len(codec.channels)))[:, None, None]
        base, out = codec.dcae.decode(z), torch.zeros(count)
        size = codec.latent_std * self.step_std[:, -1, 0, 0]
        for i in range(count):
            noise = torch.randn(z.shape[0], *z.shape[2:], generator=torch.Generator().manual_seed(i))
            changed = z.clone()
            changed[:, i] += size[i] * noise
            out[i] = ((codec.dcae.decode(changed) - base) / scale).square().mean()
        return out

    @staticmethod
    def networks(params: ForecastParams) -> dict[str, nn.Module]:
        """Build the networks from the codec's folder, without data; `gen info --config` counts their parameters."""
        with torch.device("cpu"):
            codec = load_codec(Path(params.codec))
        spec = codec.dcae.latent_spec(codec.grid.shape)
        rows, columns = _latent_axes(codec.grid, *spec.shape)
        return {"codec": codec.dcae, "dynamics": _network(params, spec.channels, rows, columns)}

    def model(self) -> nn.Module:
        """Build the denoiser around the transformer."""
        network = _network(self.params, self.train.latent.shape[1], self.rows, self.columns)
        return Denoiser(FoldedFrames(network, self.params.frames), build_precondition(**self.params.precondition))

    def train_loader(self, batch_size: int, rank: int = 0, world: int = 1) -> Any:
        """Return a stateful loader of windows."""
        from torchdata.stateful_dataloader import StatefulDataLoader

        stream = WindowStream(self.train, self.params.frames, batch_size, seed=self.seed, rank=rank, world=world)
        return StatefulDataLoader(stream, batch_size=None, num_workers=0)

    def target(self, latent: Tensor) -> Tensor:
        """Return the unit-variance increments [B, C, T, h, w] of windows [B, T+1, C, h, w]."""
        return (latent[:, 1:] - latent[:, :1]).transpose(1, 2) / self.step_std.to(latent)

    def loss(
        self, model: nn.Module, batch: dict[str, Tensor], generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Any]]:
        """Return the denoising loss."""
        latent = batch["latent"]
        if self.params.condition_noise:
            latent = self._disturbed(latent, generator)
        cond = {"cond": latent[:, 0, :, None], "hours": batch["hours"]}
        target = self.target(latent)
        loss = denoising_loss(model, target, cond, generator, self.noise_level, weights=self.weights.to(target))
        return loss, {}

    def _disturbed(self, latent: Tensor, generator: torch.Generator) -> Tensor:
        """Return windows [B, T+1, C, h, w] whose first state carries noise."""
        first = latent[:, 0]
        level = self.params.condition_noise * torch.rand(first.shape[0], 1, 1, 1, generator=generator)
        noise = level * self.step_std[:, 0] * torch.randn(first.shape, generator=generator)
        return torch.cat([(first + noise.to(first))[:, None], latent[:, 1:]], dim=1)

    @torch.no_grad()
    def validate(self, model: nn.Module) -> dict[str, float]:
        """Return latent scores of an ensemble of four after one call: RMSE of the mean, spread, and the ratio."""
        starts = self.valid.starts(self.params.frames)
        index = starts[:: max(1, len(starts) // 24)][:24]
        device = next(model.parameters()).device
        batch = WindowStream(self.valid, self.params.frames, 1, seed=0).window(index)
        batch = {name: value.to(device) for name, value in batch.items()}
        defaults = SamplingDefaults(**self.params.sampling)
        sampler = build_sampler(defaults.sampler, defaults.steps, **defaults.settings)
        cond = {"cond": batch["latent"][:, 0][:, :, None], "hours": batch["hours"]}
        truth, members = self.target(batch["latent"]), []
        for k in range(4):
            noise = torch.randn(truth.shape, generator=torch.Generator().manual_seed(k)).to(device)
            members.append(sampler(model, noise, cond=cond).float())
        ensemble = torch.stack(members)
        weights = self.weights.to(device)
        error = ((ensemble.mean(0) - truth).square() * weights).mean((0, 1, 3, 4))
        spread = (ensemble.var(0) * weights).mean((0, 1, 3, 4))
        ratio = (1.25 * spread / error).sqrt()
        scores = {f"rmse/frame{k + 1}": float(e.sqrt()) for k, e in enumerate(error)}
        return {**scores, **{f"spread_skill/frame{k + 1}": float(r) for k, r in enumerate(ratio)}}

    def export(self, model: nn.Module, folder: Path) -> None:
        """Write codec and dynamics as one model folder."""
        params = self.params
        meta = DynamicsMeta(
            frames=params.frames,
            step_hours=params.step_hours,
            step_std=self.step_std[:, :, 0, 0].T.tolist(),
            precondition=dict(params.precondition),
            trained_on=params.trained_on,
            simulated=params.simulated,
            sampling=SamplingDefaults(**params.sampling),
            name=params.name,
        )
        denoiser: Any = model
        ForecastModel(self.codec, denoiser.network.network, meta).save(folder)


def _latent_axes(grid: LatLonGrid, rows: int, columns: int) -> tuple[list[float], list[float]]:
    """Return the mean latitude of each latent row and the mean longitude of each latent column, degrees."""
    latitude, longitude = grid.latitude.reshape(rows, -1), grid.longitude.reshape(columns, -1)
    return [float(v) for v in latitude.mean(1)], [float(v) for v in longitude.mean(1)]


def _network(
    params: ForecastParams, channels: int, rows: Sequence[float], columns: Sequence[float]
) -> DualStreamTransformer:
    """Build the transformer for latents with `channels` channels."""
    return DualStreamTransformer(
        in_channels=channels * params.frames,
        out_channels=channels * params.frames,
        conditioning_tensor_in_channels=channels,
        latitude=rows,
        longitude=columns,
        **dict(params.network),
    )
