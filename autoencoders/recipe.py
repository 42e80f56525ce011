"""Train a weather codec.

By default the loss is the squared error per channel in units of the 6 h persistence error, averaged over the sphere
with exact cell areas, so that every channel is reconstructed as well as a forecast of it needs. The relative error of
published codecs is the alternative. A small penalty keeps the latents near unit variance; noise on them (optional)
keeps the decoder smooth.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

__all__ = ["CodecParams", "CodecRecipe"]

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from autoencoders.blocks import EfficientViTBlock, ResBlock
from autoencoders.dcae import DCAE
from autoencoders.losses import relative_l2
from autoencoders.params import CodecParams
from autoencoders.plan import codec_plan
from autoencoders.principal import PrincipalDCAE
from autoencoders.source import load_normalizer, open_states, read_orography, read_static
from autoencoders.store import load_codec
from autoencoders.weather import WeatherCodec
from gen.data.normalize import Normalizer
from gen.data.variables import Channel, make_channels
from gen.data.windows import ChunkStream
from gen.dryrun import Plan
from gen.grid import LatLonGrid

log = logging.getLogger(__name__)

PERSISTENCE_HOURS = 6


class CodecRecipe:
    """Recipe for `autoencoders.weather.WeatherCodec` (see `gen.engine.Recipe`)."""

    Params = CodecParams

    def __init__(self, params: CodecParams, seed: int) -> None:
        """Open the data, fit the normalisation and measure the persistence error on the training interval."""
        self.params, self.seed = params, seed
        self.channels: tuple[Channel, ...] = make_channels([*params.upper, *params.surface], params.levels)
        self.reader = open_states(params.data, self.channels, params.every)
        self.grid = self._network_grid()
        self.train_range = self.reader.indices(*params.train)
        self.valid_range = self.reader.indices(*params.valid)
        self.static = read_static(self.reader, params.static, params.static_source, params.south_pole)
        self.area = torch.from_numpy(self.grid.area_weights()).float()
        self.start = self._start()
        self._fit(list(self._sample(self.train_range)))

    def _network_grid(self) -> LatLonGrid:
        """Return the grid that the autoencoder sees."""
        grid = self.reader.grid
        if self.params.grid and tuple(self.params.grid) != grid.shape:
            raise ValueError(f"grid must be that of the data, {list(grid.shape)}; got {self.params.grid}")
        return grid if self.params.south_pole else LatLonGrid(grid.latitude[1:], grid.longitude)

    def _start(self) -> WeatherCodec | None:
        """Return the codec that training starts from."""
        if not self.params.start_from:
            return None
        codec = load_codec(Path(self.params.start_from))
        if codec.channels != self.channels or codec.grid != self.reader.grid:
            raise ValueError(
                f"start_from must be a codec of the same channels and grid; {self.params.start_from} is not"
            )
        return codec

    def _sample(self, interval: tuple[int, int]) -> Iterator[Tensor]:
        """Yield whole chunks of the interval, evenly spread, about `params.states` states in all.

        Chunks never cross the boundary of two segments of a world, so that neighbouring states have neighbouring times.
        Short chunks are read several at a time, so that a piece holds two states 6 h apart.
        """
        hours, chunk = self.reader.hours, self.reader.chunk
        size = chunk * -(-(self._stride + 1) // chunk)
        numbers = range(-(-interval[0] // size), interval[1] // size)
        pieces = max(1, self.params.states // size)
        for number in numbers[:: max(1, len(numbers) // pieces)]:
            first, last = number * size, (number + 1) * size - 1
            if hours[last] - hours[first] == (size - 1) * self._spacing:
                yield self.reader.read(slice(first, last + 1))

    @property
    def _spacing(self) -> int:
        """Return the hours between neighbouring states."""
        return int(np.diff(self.reader.hours).min())

    @property
    def _stride(self) -> int:
        """Return how many states further the state of 6 h later is."""
        return max(1, PERSISTENCE_HOURS // self._spacing)

    def _fit(self, sample: Sequence[Tensor]) -> None:
        """Fit normalisation and anomalies; measure the RMS 6 h change per channel [C] in the autoencoder's units."""
        self.normalizer = self._normalizer(sample)
        self.center = self.spread = None
        fields = [self._normalised(s) for s in sample]
        if self.start is not None:
            self.center, self.spread = self.start.center, self.start.spread
        elif self.params.anomalies:
            self.center = torch.stack([f.mean(0) for f in fields]).mean(0)
            variance = torch.stack([(f - self.center).square().mean(0) for f in fields]).mean(0)
            self.spread = (variance * self.area).sum((-2, -1)).sqrt()
        changes = torch.cat([f[self._stride :] - f[: -self._stride] for f in fields])
        change = (changes.square() * self.area).sum((-2, -1)).mean(0).sqrt()
        self.persistence = change if self.spread is None else change / self.spread
        gaps = [self._gaps(s).all(0).any(0) for s in sample] if self.params.missing else []
        self.land = torch.stack(gaps).all(0) if gaps else None

    def _normalizer(self, sample: Sequence[Tensor]) -> Normalizer:
        if self.start is not None:
            return self.start.normalizer
        if self.params.normalizer != "fit":
            return load_normalizer(self.params.normalizer, self.channels)
        scales = {c: self.params.log1p[c.name] for c in self.channels if c.name in self.params.log1p}
        return Normalizer.fit(iter(sample), self.channels, log1p=scales)

    def _gaps(self, states: Tensor) -> Tensor:
        """Return where the channels that may be missing are missing, [B, C, H, W]; raises ValueError for others."""
        known = {c.code for c in self.channels}
        if unknown := set(self.params.missing) - known:
            raise ValueError(f"missing names {', '.join(sorted(unknown))}, which the codec does not have")
        may = torch.tensor([c.code in self.params.missing for c in self.channels], device=states.device)
        return torch.isnan(states) & may[:, None, None]

    def _normalised(self, states: Tensor) -> Tensor:
        """Return normalised fields on the autoencoder's grid, gaps filled."""
        x = self.normalizer.forward(states if self.params.south_pole else states[..., 1:, :])
        for i, channel in enumerate(self.channels):
            if channel.code in self.params.missing:
                x[..., i, :, :] = x[..., i, :, :].nan_to_num(nan=self.params.missing[channel.code])
        return x

    def anomalies(self, states: Tensor) -> Tensor:
        """Return what the autoencoder sees of states in SI units."""
        x = self._normalised(states)
        if self.center is None or self.spread is None:
            return x
        return (x - self.center.to(x)) / self.spread.to(x)[:, None, None]

    @staticmethod
    def networks(params: CodecParams) -> dict[str, nn.Module]:
        """Build the autoencoder without data; `gen info --config` counts its parameters."""
        network = _network(params, make_channels([*params.upper, *params.surface], params.levels))
        principal = params.principal
        return {"autoencoder": PrincipalDCAE(network, (), params.context) if principal else DCAE(**network)}

    @staticmethod
    def plan(params: CodecParams) -> Plan:
        """Say what `gen info --config` can count without data."""
        return codec_plan(params, CodecRecipe.networks(params)["autoencoder"])

    def model(self) -> nn.Module:
        """Build the autoencoder; with `principal` it starts at the principal components of training patches."""
        model = self._fresh() if self.start is None else self._continued(self.start)
        for part in self.params.freeze:
            inside = [p for name, p in model.named_parameters() if f"{name}.".startswith(f"{part}.")]
            if not inside:
                raise ValueError(f"freeze names {part!r}, which is no part of {type(model).__name__}")
            for parameter in inside:
                parameter.requires_grad_(False)
        if self.params.checkpointing:
            checkpoint_blocks(model)
        return model

    def _fresh(self) -> nn.Module:
        network = _network(self.params, self.channels)
        if not self.params.principal:
            return DCAE(**network)
        model = PrincipalDCAE(network, [float(p) for p in self.persistence], self.params.context)
        sample = torch.cat([self.anomalies(s[::4]) for s in self._sample(self.train_range)])
        error = model.fit(sample)
        log.info("principal components alone: mean error %.3f of the 6 h persistence error", float(error.mean()))
        return model

    def _continued(self, start: WeatherCodec) -> nn.Module:
        """Return the autoencoder of the codec to start from."""
        with torch.device("meta"):
            described = self.networks(self.params)["autoencoder"]
        shapes = [{name: value.shape for name, value in m.state_dict().items()} for m in (described, start.dcae)]
        if shapes[0] != shapes[1]:
            raise ValueError(f"start_from {self.params.start_from} has another network than dcae describes")
        return copy.deepcopy(start.dcae).requires_grad_(True).train()

    def train_loader(self, batch_size: int, rank: int = 0, world: int = 1) -> Any:
        """Return a stateful loader of batches in SI units."""
        from torchdata.stateful_dataloader import StatefulDataLoader

        stream = ChunkStream(self.reader, *self.train_range, batch_size, seed=self.seed, rank=rank, world=world)
        return StatefulDataLoader(stream, batch_size=None, num_workers=0)

    def loss(self, model: nn.Module, batch: Tensor, generator: torch.Generator) -> tuple[Tensor, dict[str, Any]]:
        """Return the loss and its parts; where data are missing neither has an error nor a gradient."""
        x, static = self.anomalies(batch), self.static.to(batch)
        hidden = self._gaps(batch)[..., -x.shape[-2] :, :] if self.params.missing else None
        if self.params.roll:
            shifts = torch.randint(x.shape[-1], (len(x),), generator=generator).tolist()
            x, static = _rolled(x, shifts), _rolled(static.expand(len(x), -1, -1, -1), shifts)
            hidden = None if hidden is None else _rolled(hidden, shifts)
        z, y = self._reconstructed(model, x, static, self._noise(generator))
        target = torch.cat([x, static.expand(len(x), -1, -1, -1)], dim=1) if y.shape[1] > x.shape[1] else x
        if hidden is not None:
            y = torch.cat([torch.where(hidden, x.to(y), y[:, : x.shape[1]]), y[:, x.shape[1] :]], dim=1)
        name, error = self._error(y, target)
        penalty = z.float().square().mean()
        return error + self.params.latent_penalty * penalty, {name: error.detach(), "latent_square": penalty.detach()}

    def _reconstructed(self, model: Any, x: Tensor, static: Tensor, noise: Any) -> tuple[Tensor, Tensor]:
        """Return latents and reconstruction, with the static channels where these count."""
        if not self.params.reconstruct_static:
            z, y = model(x, static, noise=noise)
            return z, y
        z = model.encode(x, static)
        return z, model.decode(z if noise is None else noise(z), return_static=True)

    def _error(self, y: Tensor, x: Tensor) -> tuple[str, Tensor]:
        """Return the name and the value of the reconstruction error of y [B, C, H, W]."""
        area = self.area.to(x)
        if self.params.loss == "relative_l2":
            return "relative_l2", relative_l2(y, x, area if self.params.latitude_weights else None)
        error = ((y.float() - x).square() * area).sum((-2, -1)).mean(0)
        return "relative_mse", (error / self.persistence.to(x).square()).mean()

    def _noise(self, generator: torch.Generator) -> Any:
        """Return the function that adds training noise to latents."""
        level = self.params.latent_noise

        def add(z: Tensor) -> Tensor:
            noise = torch.randn(z.shape, generator=generator, dtype=torch.float32)
            return z + level * z.detach().float().std() * noise.to(z)

        return add if level > 0 else None

    @torch.no_grad()
    def validate(self, model: Any) -> dict[str, float]:
        """Return the reconstruction error per channel as a fraction of the 6 h persistence error."""
        total, count = torch.zeros(len(self.channels)), 0
        device = next(model.parameters()).device
        for states in self._sample(self.valid_range):
            x = self.anomalies(states[::8])
            y = model.decode(model.encode(x.to(device), self.static.to(device))).float().cpu()
            error = (y - x).masked_fill(self._gaps(states[::8])[..., -x.shape[-2] :, :], 0.0)
            total += (error.square() * self.area).sum((-2, -1)).sum(0)
            count += len(x)
        ratio = (total / count).sqrt() / self.persistence
        named = {f"fraction/{c.code}": float(r) for c, r in zip(self.channels, ratio, strict=True)}
        return {**named, "fraction/mean": float(ratio.mean()), "fraction/max": float(ratio.max())}

    def codec(self, model: DCAE | PrincipalDCAE) -> WeatherCodec:
        """Bind the trained autoencoder to its normalisation and measure the latent statistics."""
        codec = WeatherCodec(
            model,
            self.normalizer,
            self.reader.grid,
            self.static,
            center=self.center,
            spread=self.spread,
            orography=read_orography(self.reader),
            south_pole=self.params.south_pole,
            missing=self.params.missing,
            land=self.land,
        )
        with torch.no_grad():
            latents = torch.cat([codec.encode(s[::8]) for s in self._sample(self.train_range)])
        codec.latent_mean = latents.mean((0, 2, 3))
        codec.latent_std = latents.std((0, 2, 3)) / self.params.latent_spread
        return codec

    def export(self, model: nn.Module, folder: Path) -> None:
        """Write the codec as a model folder."""
        from autoencoders.store import save_codec

        save_codec(folder, self.codec(model.eval()))  # type: ignore[arg-type]


def checkpoint_blocks(model: nn.Module) -> None:
    """Let the blocks of an autoencoder keep only their input for the backward pass and compute the rest again."""
    for block in model.modules():
        if isinstance(block, ResBlock | EfficientViTBlock):
            block.forward = partial(_recomputed, block.forward)  # type: ignore[method-assign]


def _recomputed(forward: Any, x: Tensor) -> Tensor:
    return checkpoint(forward, x, use_reentrant=False) if torch.is_grad_enabled() else forward(x)


def _rolled(x: Tensor, shifts: Sequence[int]) -> Tensor:
    """Turn each sample of [B, C, H, W] by its own number of columns."""
    return torch.stack([torch.roll(sample, shift, -1) for sample, shift in zip(x, shifts, strict=True)])


def _network(params: CodecParams, channels: Sequence[Channel]) -> dict[str, Any]:
    """Return the arguments of the autoencoder."""
    count, statics = len(channels), len(params.static)
    return {
        "in_channels": count + statics,
        "out_channels": count + statics,
        "static_channels": statics,
        "vector_channels": [i for i, c in enumerate(channels) if "component_of_wind" in c.name],
        **dict(params.dcae),
    }
