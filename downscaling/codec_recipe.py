"""Train a rain codec (`downscaling.rain_codec`) on crops of fine rain.

Training starts at the principal components of patches, fitted on crops, and lowers the squared error of amounts and
rain masks, each in its unit. A little noise on the latents keeps the decoder smooth where a flow will not be exact.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["RainCodecParams", "RainCodecRecipe"]

import torch
from torch import Tensor, nn

from autoencoders.principal import PrincipalDCAE
from downscaling.codec_gate import fidelity
from downscaling.rain_codec import RainCodec, RainCodecMeta, build_network
from downscaling.scenes import Events, SceneStream
from downscaling.transform import RainTransform

log = logging.getLogger(__name__)

SAME = 1.0  # factor of the pairs: the fine rain alone is used


@dataclass
class RainCodecParams:
    """What to train on and what to train.

    Args:
        train, valid: rain, see `downscaling.recipe.DownscalingParams`.
        crop: side of a crop in pixels, a multiple of `factor`.
        transform: arguments of `RainTransform`; those of the downscaling model that will use the codec.
        factor: pixels along the side of a latent cell, 2 or 4. channels: of the latents.
        network: further arguments of `downscaling.rain_codec.build_network`.
        latent_noise: standard deviation of the noise on the latents while training.
        crops: number of crops that principal components are fitted on. valid_crops: number that validation takes.
        trained_on: what the data are, in words. name: the codec's name.

    Raises:
        ValueError: a crop that is no whole number of latent cells.
    """

    train: list[dict[str, Any]] = field(default_factory=list)
    valid: list[dict[str, Any]] = field(default_factory=list)
    crop: int = 120
    transform: dict[str, Any] = field(default_factory=dict)
    factor: int = 4
    channels: int = 20
    network: dict[str, Any] = field(default_factory=dict)
    latent_noise: float = 0.03
    crops: int = 300
    valid_crops: int = 24
    trained_on: str = ""
    name: str = "rain-codec"

    def __post_init__(self) -> None:
        """Check that crops fit."""
        if self.crop % self.factor:
            raise ValueError(f"crop must be a multiple of factor {self.factor}; got {self.crop}")


class RainCodecRecipe:
    """Recipe for `downscaling.rain_codec.RainCodec` (see `gen.engine.Recipe`)."""

    Params = RainCodecParams

    def __init__(self, params: RainCodecParams, seed: int) -> None:
        """Open the rain and list the crops."""
        self.params, self.seed = params, seed
        self.transform = RainTransform(**params.transform)
        for part in ("train", "valid"):
            if not getattr(params, part):
                raise ValueError(f"{part} names no rain: give a list of mappings with `path`")
        self.train = Events(params.train, [SAME], params.crop, seed)
        self.valid = Events(params.valid, [SAME], params.crop, seed + 1)

    @staticmethod
    def networks(params: RainCodecParams) -> dict[str, nn.Module]:
        """Build the network without data; `gen info --config` counts its parameters."""
        return {"codec": build_network(params.factor, params.channels, **params.network)}

    def model(self) -> nn.Module:
        """Build the network and fit its principal components."""
        network = build_network(self.params.factor, self.params.channels, **self.params.network)
        error = network.fit(self._fields(self._crops(self.train, self.params.crops)))
        log.info("principal components alone: error %.4f of amounts, %.4f of masks", *error.tolist())
        return network

    def train_loader(self, batch_size: int, rank: int = 0, world: int = 1) -> Any:
        """Return a stateful loader of scenes."""
        from torchdata.stateful_dataloader import StatefulDataLoader

        stream = SceneStream(self.train, self.transform, batch_size, rank, world, seed=self.seed)
        return StatefulDataLoader(stream, batch_size=None, num_workers=0)

    def loss(
        self, model: nn.Module, batch: dict[str, Tensor], generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Any]]:
        """Return the squared error, and that of amounts and of masks alone, each in its unit."""
        network: Any = model
        x = self._fields(batch["rain"])

        def noisy(z: Tensor) -> Tensor:
            noise = torch.randn(z.shape, generator=generator, dtype=torch.float32)
            return z + self.params.latent_noise * noise.to(z)

        y = network(x, noise=noisy)[1]
        unit = torch.tensor(network.config["unit"]).to(x)
        error = (y.float() - x).square().mean((0, 2, 3)) / unit.square()
        return error.sum(), {"amount": error[0].detach(), "mask": error[1].detach()}

    @torch.no_grad()
    def validate(self, model: nn.Module) -> dict[str, float]:
        """Return what the gate looks at, on validation crops."""
        network: Any = model
        device = next(network.parameters()).device
        return fidelity(self.codec(network), self._crops(self.valid, self.params.valid_crops).to(device))

    def codec(self, network: PrincipalDCAE) -> RainCodec:
        """Bind the network to what its weights do not say."""
        params = self.params
        names = tuple(dict.fromkeys(s.name for s in self.train.sources))
        return RainCodec(network, RainCodecMeta(dict(params.transform), names, params.trained_on, params.name))

    def export(self, model: nn.Module, folder: Path) -> None:
        """Write the model folder."""
        network: Any = model
        self.codec(network).save(folder)

    def _fields(self, rain: Tensor) -> Tensor:
        """Return amounts and masks [B, 2, H, W]; what is missing counts as dry."""
        filled = torch.nan_to_num(rain)
        return torch.stack([self.transform.forward(filled), self.transform.wet(filled).float()], dim=1)

    @staticmethod
    def _crops(events: Events, count: int) -> Tensor:
        return torch.stack([torch.from_numpy(events.streams[0].sample(n).fine).float() for n in range(count)])
