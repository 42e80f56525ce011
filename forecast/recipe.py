"""Train the latent dynamics: denoise encoded trajectories, their increments or the states themselves.

EDM and flow matching differ by configuration only: the preconditioning and the distribution of noise levels.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast, get_args

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
from forecast.model import DynamicsMeta, FoldedFrames, ForecastModel, SamplingDefaults, Target
from forecast.plan import forecast_plan
from gen.dryrun import Plan
from gen.grid import LatLonGrid
from gen.hub import open_model

log = logging.getLogger(__name__)


@dataclass
class ForecastParams:
    """What to train on and what to train.

    Args:
        latents: Zarr store of `autoencoders.latents.encode_world`.
        codec: model folder of the codec that made them.
        train, valid: half-open calendar intervals [begin, end).
        frames: states generated per call.
        step_hours: hours between them, a multiple of the spacing of the latents: windows may start at every hour.
        target: "increments" or "states", see `forecast.model`.
        folded: whether the network sees the frames of a place as one token.
        latent: {channels, rows, columns} of the latents, for `gen info --config` where the codec is not there.
        in_memory: whether to load the latents; None does where they take a quarter of the free memory at most.
        checkpointing: recompute the network's blocks in the backward pass: less memory for a third more work.
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
    target: str = "increments"
    folded: bool = True
    latent: dict[str, int] = field(default_factory=dict)
    in_memory: bool | None = None
    checkpointing: bool = False
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
        if self.target not in get_args(Target):
            raise ValueError(f"target must be one of {', '.join(get_args(Target))}; got {self.target!r}")
        if self.latent and sorted(self.latent) != ["channels", "columns", "rows"]:
            raise ValueError(f"latent must be {{channels, rows, columns}}; got {', '.join(self.latent)}")


class WindowStream(IterableDataset[dict[str, Tensor]]):
    """Yield endless shuffled batches of windows {latent [B, T+1, C, h, w], hours [B]}; stateful."""

    def __init__(
        self,
        store: LatentStore,
        frames: int,
        batch_size: int,
        *,
        seed: int,
        rank: int = 0,
        world: int = 1,
        step_hours: int | None = None,
    ) -> None:
        """List every complete window."""
        self.store, self.frames, self.batch_size, self.step_hours = store, frames, batch_size, step_hours
        self.seed, self.rank, self.world = seed, rank, world
        self.starts = store.starts(frames, step_hours)
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
        latent = self.store.windows(index, self.frames, self.step_hours)
        return {"latent": latent, "hours": torch.from_numpy(self.store.hours[index])}


class ForecastRecipe:
    """Recipe for `forecast.model.ForecastModel` (see `gen.engine.Recipe`)."""

    Params = ForecastParams

    def __init__(self, params: ForecastParams, seed: int) -> None:
        """Open the latents and measure the increments."""
        self.params, self.seed = params, seed
        memory: bool | Literal["auto"] = "auto" if params.in_memory is None else params.in_memory
        self.train = LatentStore(params.latents, *params.train, in_memory=memory)
        self.valid = LatentStore(params.latents, *params.valid, in_memory=memory)
        if open_model(Path(params.codec)).digest != self.train.codec_hash:
            raise ValueError(f"{params.latents} was encoded by another codec than {params.codec}; encode it again")
        if params.step_hours % (spacing := self.train.spacing):
            raise ValueError(
                f"step_hours must be a multiple of the {spacing} h between latents; got {params.step_hours}"
            )
        for name, store in (("train", self.train), ("valid", self.valid)):
            if not store.starts(params.frames, params.step_hours).size:
                raise ValueError(f"{name} holds no {params.frames + 1} states in a row in {params.latents}")
        shape = dict(zip(("channels", "rows", "columns"), self.train.latent.shape[1:], strict=True))
        if params.latent and params.latent != shape:
            raise ValueError(f"latent must be {shape} as in {params.latents}; got {params.latent}")
        self.step_std = self._increments()
        self.noise_level = build_noise_level(**params.noise_level)
        self.codec = load_codec(Path(params.codec))
        self.rows, self.columns = _latent_axes(self.codec.network_grid, *self.train.latent.shape[2:])
        cosine = torch.cos(torch.deg2rad(torch.tensor(self.rows)))
        self.weights = (cosine / cosine.mean())[:, None]
        if params.importance:
            worth = self._worth() ** params.importance
            self.weights = self.weights * (worth / worth.mean())[:, None, None, None]

    def _increments(self) -> Tensor:
        """Return the standard deviation of z[k] - z[0], [C, T, 1, 1]."""
        starts = self.train.starts(self.params.frames, self.params.step_hours)
        index = starts[:: max(1, len(starts) // 1000)]
        windows = self.train.windows(index, self.params.frames, self.params.step_hours)
        first = windows[:, 0]
        self._check_spread(float(first.std()))
        steps = [(windows[:, k + 1] - first).std((0, 2, 3)) for k in range(self.params.frames)]
        return torch.stack(steps, dim=1)[:, :, None, None]

    def _check_spread(self, std: float) -> None:
        """Warn where states are to be drawn whose spread is not the one that the preconditioning is told."""
        told = self.params.precondition.get("sigma_data")
        if self.params.target == "states" and told and not 0.67 < std / told < 1.5:
            log.warning("the latents have a standard deviation of %.2f, but sigma_data is %.2f", std, told)

    @torch.no_grad()
    def _worth(self) -> Tensor:
        """Return the mean square response of the decoded fields to an increment of each latent channel [C]."""
        codec, count = self.codec, self.train.latent.shape[1]
        index = self.train.starts(1, self.params.step_hours)[:: len(self.train.hours) // 4][:4]
        z = self.train.latent[torch.from_numpy(index)].float()
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
        """Build the networks without data, from the codec's folder or `latent`, for `gen info --config`."""
        if params.latent and not Path(params.codec).exists():
            channels, rows, columns = (params.latent[name] for name in ("channels", "rows", "columns"))
            axes = _latent_axes(LatLonGrid.equiangular(rows, columns), rows, columns)
            return {"dynamics": _network(params, channels, *axes)}
        with torch.device("cpu"):
            codec = load_codec(Path(params.codec))
        channels, *shape = codec.latent_shape
        return {"codec": codec.dcae, "dynamics": _network(params, channels, *_latent_axes(codec.network_grid, *shape))}

    @staticmethod
    def plan(params: ForecastParams) -> Plan:
        """Say what `gen info --config` can count without data."""
        return forecast_plan(params, ForecastRecipe.networks(params))

    def model(self) -> nn.Module:
        """Build the denoiser around the transformer."""
        network = _network(self.params, self.train.latent.shape[1], self.rows, self.columns)
        if self.params.checkpointing:
            network.enable_gradient_checkpointing()
        return denoiser(self.params, network)

    def train_loader(self, batch_size: int, rank: int = 0, world: int = 1) -> Any:
        """Return a stateful loader of windows."""
        from torchdata.stateful_dataloader import StatefulDataLoader

        step = self.params.step_hours
        options: dict[str, Any] = {"seed": self.seed, "rank": rank, "world": world, "step_hours": step}
        stream = WindowStream(self.train, self.params.frames, batch_size, **options)
        return StatefulDataLoader(stream, batch_size=None, num_workers=0)

    def target(self, latent: Tensor) -> Tensor:
        """Return the states, or their unit-variance increments, [B, C, T, h, w] of windows [B, T+1, C, h, w]."""
        if self.params.target == "states":
            return latent[:, 1:].transpose(1, 2)
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
        step = self.params.step_hours
        starts = self.valid.starts(self.params.frames, step)
        index = starts[:: max(1, len(starts) // 24)][:24]
        device = next(model.parameters()).device
        batch = WindowStream(self.valid, self.params.frames, 1, seed=0, step_hours=step).window(index)
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
            step_std=self.step_std[:, :, 0, 0].T.tolist() if params.target == "increments" else [],
            precondition=dict(params.precondition),
            trained_on=params.trained_on,
            simulated=params.simulated,
            sampling=SamplingDefaults(**params.sampling),
            name=params.name,
            target=cast(Target, params.target),
            folded=params.folded,
        )
        seen: Any = model.network
        ForecastModel(self.codec, seen.network if params.folded else seen, meta).save(folder)


def denoiser(params: ForecastParams, network: DualStreamTransformer) -> Denoiser:
    """Wrap the transformer as it is trained: frames folded or not, in its preconditioning."""
    seen: nn.Module = FoldedFrames(network, params.frames) if params.folded else network
    return Denoiser(seen, build_precondition(**params.precondition))


def _latent_axes(grid: LatLonGrid, rows: int, columns: int) -> tuple[list[float], list[float]]:
    """Return the mean latitude of each latent row and the mean longitude of each latent column, degrees."""
    latitude, longitude = grid.latitude.reshape(rows, -1), grid.longitude.reshape(columns, -1)
    return [float(v) for v in latitude.mean(1)], [float(v) for v in longitude.mean(1)]


def _network(
    params: ForecastParams, channels: int, rows: Sequence[float], columns: Sequence[float]
) -> DualStreamTransformer:
    """Build the transformer for latents with `channels` channels."""
    return DualStreamTransformer(
        in_channels=channels * (params.frames if params.folded else 1),
        out_channels=channels * (params.frames if params.folded else 1),
        conditioning_tensor_in_channels=channels,
        latitude=rows,
        longitude=columns,
        **dict(params.network),
    )
