"""Train a weather codec.

The loss is the squared error per channel in units of the 6 h persistence error, averaged over the sphere with exact
cell areas, so that every channel is reconstructed as well as a forecast of it needs. A small penalty keeps the latents
near unit variance; noise on them (optional) keeps the decoder smooth.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["CodecParams", "CodecRecipe"]

import numpy as np
import torch
from torch import Tensor, nn

from autoencoders.dcae import DCAE
from autoencoders.principal import PrincipalDCAE
from autoencoders.weather import WeatherCodec
from gen.data.normalize import Normalizer
from gen.data.variables import Channel, make_channels
from gen.data.windows import ChunkStream, WorldReader

log = logging.getLogger(__name__)


@dataclass
class CodecParams:
    """What to train on and what to train.

    Args:
        data: Zarr world (WeatherBench names, ascending latitude).
        upper: variables on pressure levels; `levels`: those levels in hPa; `surface`: surface variables.
        log1p: scale per variable that is stored as log(1 + x / scale) (precipitation).
        train, valid: half-open calendar intervals [begin, end).
        static: static fields given to the encoder.
        dcae: further arguments of `autoencoders.dcae.DCAE` (widths, layers, latent channels).
        principal: correct principal components of patches (`autoencoders.principal`) instead of a network alone.
        latent_noise: standard deviation of the noise on the latents while training, relative to unit variance.
        latent_penalty: weight of the squared latents.
        states: how many states the normalisation and the validation use.
    """

    data: str = ""
    upper: list[str] = field(default_factory=list)
    levels: list[int] = field(default_factory=list)
    surface: list[str] = field(default_factory=list)
    log1p: dict[str, float] = field(default_factory=dict)
    train: list[str] = field(default_factory=list)
    valid: list[str] = field(default_factory=list)
    static: list[str] = field(default_factory=lambda: ["land_sea_mask", "geopotential_at_surface"])
    dcae: dict[str, Any] = field(default_factory=dict)
    principal: bool = True
    latent_noise: float = 0.0
    latent_penalty: float = 1e-4
    states: int = 400

    def __post_init__(self) -> None:
        """Check the intervals."""
        for name in ("train", "valid"):
            if len(getattr(self, name)) not in (0, 2):
                raise ValueError(f"{name} must be [begin, end); got {getattr(self, name)}")


class CodecRecipe:
    """Recipe for `autoencoders.weather.WeatherCodec` (see `gen.engine.Recipe`)."""

    Params = CodecParams

    def __init__(self, params: CodecParams, seed: int) -> None:
        """Open the data, fit the normalisation and measure the persistence error on the training interval."""
        self.params, self.seed = params, seed
        self.channels: tuple[Channel, ...] = make_channels([*params.upper, *params.surface], params.levels)
        self.reader = WorldReader(params.data, self.channels)
        self.train_range = self.reader.indices(*params.train)
        self.valid_range = self.reader.indices(*params.valid)
        self.static = self.reader.static(params.static)
        self.area = torch.from_numpy(self.reader.grid.area_weights()).float()
        self._fit(list(self._sample(self.train_range)))

    def _sample(self, interval: tuple[int, int]) -> Any:
        """Yield whole chunks of the interval, evenly spread, about `params.states` states in all.

        Chunks never cross the boundary of two segments of a world, so that neighbouring states are 6 h apart.
        """
        chunk = self.reader.chunk
        chunks = range(-(-interval[0] // chunk), interval[1] // chunk)
        pieces = max(1, self.params.states // chunk)
        for number in chunks[:: max(1, len(chunks) // pieces)]:
            yield self.reader.read(slice(number * chunk, (number + 1) * chunk))

    def _fit(self, sample: Sequence[Tensor]) -> None:
        """Fit normalisation and anomalies; measure the RMS 6 h change per channel [C] in the autoencoder's units."""
        scales = {c: self.params.log1p[c.name] for c in self.channels if c.name in self.params.log1p}
        self.normalizer = Normalizer.fit(iter(sample), self.channels, log1p=scales)
        fields = [self.normalizer.forward(s) for s in sample]
        self.center = torch.stack([f.mean(0) for f in fields]).mean(0)
        variance = torch.stack([(f - self.center).square().mean(0) for f in fields]).mean(0)
        self.spread = (variance * self.area).sum((-2, -1)).sqrt()
        changes = torch.cat([torch.diff(f, dim=0) for f in fields])
        self.persistence = (changes.square() * self.area).sum((-2, -1)).mean(0).sqrt() / self.spread

    def anomalies(self, states: Tensor) -> Tensor:
        """Return what the autoencoder sees of states in SI units."""
        return (self.normalizer.forward(states) - self.center) / self.spread[:, None, None]

    @staticmethod
    def networks(params: CodecParams) -> dict[str, nn.Module]:
        """Build the autoencoder without data; `gen info --config` counts its parameters."""
        network = _network(params, make_channels([*params.upper, *params.surface], params.levels))
        return {"autoencoder": PrincipalDCAE(network) if params.principal else DCAE(**network)}

    def model(self) -> nn.Module:
        """Build the autoencoder; with `principal` it starts at the principal components of training patches."""
        network = _network(self.params, self.channels)
        if not self.params.principal:
            return DCAE(**network)
        model = PrincipalDCAE(network, [float(p) for p in self.persistence])
        sample = torch.cat([self.anomalies(s[::4]) for s in self._sample(self.train_range)])
        error = model.fit(sample)
        log.info("principal components alone: mean error %.3f of the 6 h persistence error", float(error.mean()))
        return model

    def train_loader(self, batch_size: int, rank: int = 0, world: int = 1) -> Any:
        """Return a stateful loader of batches in SI units."""
        from torchdata.stateful_dataloader import StatefulDataLoader

        stream = ChunkStream(self.reader, *self.train_range, batch_size, seed=self.seed, rank=rank, world=world)
        return StatefulDataLoader(stream, batch_size=None, num_workers=0)

    def loss(self, model: nn.Module, batch: Tensor, generator: torch.Generator) -> tuple[Tensor, dict[str, Any]]:
        """Return the loss and its parts; the error's unit is the 6 h persistence error."""
        x = self.anomalies(batch.cpu()).to(batch)
        z, y = model(x, self.static.to(x), noise=self._noise(generator))
        error = ((y.float() - x).square() * self.area.to(x)).sum((-2, -1)).mean(0)
        relative = error / self.persistence.to(x).square()
        penalty = z.float().square().mean()
        loss = relative.mean() + self.params.latent_penalty * penalty
        return loss, {"relative_mse": relative.mean().detach(), "latent_square": penalty.detach()}

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
            total += ((y - x).square() * self.area).sum((-2, -1)).sum(0)
            count += len(x)
        ratio = (total / count).sqrt() / self.persistence
        named = {f"fraction/{c.code}": float(r) for c, r in zip(self.channels, ratio, strict=True)}
        return {**named, "fraction/mean": float(ratio.mean()), "fraction/max": float(ratio.max())}

    def codec(self, model: DCAE | PrincipalDCAE) -> WeatherCodec:
        """Bind the trained autoencoder to its normalisation and measure the latent statistics."""
        orography = torch.from_numpy(np.asarray(self.reader.group["geopotential_at_surface"], dtype=np.float32))
        codec = WeatherCodec(
            model,
            self.normalizer,
            self.reader.grid,
            self.static,
            center=self.center,
            spread=self.spread,
            orography=orography,
        )
        with torch.no_grad():
            latents = torch.cat([codec.encode(s[::8]) for s in self._sample(self.train_range)])
        codec.latent_mean = latents.mean((0, 2, 3))
        codec.latent_std = latents.std((0, 2, 3))
        return codec

    def export(self, model: nn.Module, folder: Path) -> None:
        """Write the codec as a model folder."""
        from autoencoders.store import save_codec

        save_codec(folder, self.codec(model.eval()))  # type: ignore[arg-type]


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
