r"""The flow in the latent space of a rain codec (`downscaling.rain_codec`), the mean stage on pixels.

With the expectation (mu, sigma, p) of the mean stage and the codec's linear analysis A of patches, the flow draws

    x = (z - A (mu, p)) / (c s),        s^2 = A^2 (sigma^2, p (1 - p)),

what the latent z departs from that of the expected field, over the spread that independent pixels would give it; c is
a number per latent channel, measured while training, since pixels are not independent. x is of order one whatever the
intensity, as in pixel space. It has f x f times fewer places there, and the transformer as many times fewer tokens for
the same field. The codec stays as it is; it must have passed `downscaling.codec_gate`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

__all__ = ["LatentNetworks", "build_latent_networks", "load_latent"]

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autoencoders.principal import PrincipalDCAE
from diffusion.hourglass import HourglassTransformer
from downscaling.conditions import FEATURES, FIELDS
from downscaling.model import KNOWN, DownscalingNetworks, Expectation, wet_spread
from downscaling.rain_codec import GATE, RainCodec, RainCodecMeta

if TYPE_CHECKING:
    from gen.hub import ModelFolder

PACE, SLOWEST = 4.0, 1e-3  # weight of a batch in the measured scale: PACE over the batches seen, at least SLOWEST
LEAST = 1e-3  # of the scale


class LatentNetworks(DownscalingNetworks):
    """Both stages, the flow in latent space.

    Args:
        mean: see `DownscalingNetworks`. flow: maps noisy latents and all that is known, patch by patch, to a velocity.
        precondition: of the flow.
        codec: is not trained.
        scale: c for each latent channel; by default it is measured while training.
    """

    scale: Tensor
    batches: Tensor

    def __init__(
        self,
        mean: HourglassTransformer,
        flow: HourglassTransformer,
        precondition: dict[str, Any],
        codec: RainCodec,
        scale: Sequence[float] | None = None,
    ) -> None:
        super().__init__(mean, flow, precondition)
        self.codec = codec.requires_grad_(False)
        self.register_buffer("scale", torch.tensor(scale) if scale else torch.ones(codec.channels))
        self.register_buffer("batches", torch.tensor(round(PACE / SLOWEST) if scale else 0))

    @property
    def cell(self) -> int:
        """Return f, the pixels along the side of what the flow draws."""
        return self.codec.factor

    @property
    def channels(self) -> int:
        """Return the channels of what the flow draws."""
        return self.codec.channels

    def known(self, fields: Tensor, expected: Expectation) -> Tensor:
        """Return all known fields of the flow [B, KNOWN f f, H/f, W/f]: the pixels of a patch as channels."""
        return F.pixel_unshuffle(super().known(fields, expected), self.cell)

    def conditions(
        self, fields: Tensor, features: Tensor, place_km: Tensor | None, expected: Expectation
    ) -> dict[str, Any]:
        """Return what the flow is told, the places being those of latent cells."""
        place = None if place_km is None else F.avg_pool2d(place_km, self.cell)
        return super().conditions(fields, features, place, expected)

    def parts(self) -> tuple[dict[str, nn.Module], dict[str, dict[str, Any]]]:
        """Return what a model folder holds: the codec and its gate as well."""
        components, documents = super().parts()
        documents["codec"] = {**asdict(self.codec.meta), "scale": self.scale.tolist()}
        if self.codec.gate is not None:
            documents[GATE] = self.codec.gate
        return {**components, "codec": self.codec.network}, documents

    def target(self, amount: Tensor, wet: Tensor, expected: Expectation, there: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the flow learns to draw, and the latent cells all of whose pixels are known."""
        whole = -F.max_pool2d(-there.float()[:, None], self.cell)[:, 0] > 0
        x = self.residual(amount, wet, expected)
        if self.training:
            x = x * self._measure(x, whole)[:, None, None]
        return torch.where(whole[:, None], x, torch.zeros(())), whole

    def residual(self, amount: Tensor, wet: Tensor, expected: Expectation) -> Tensor:
        """Return x [B, Cz, H/f, W/f] of amounts and rain masks [B, H, W]."""
        with torch.no_grad():
            z = self.codec.encode(amount, wet)
        return (z - self.codec.analysis(expected.amount, expected.wet)) / self._spread(expected)

    def levels(self, x: Tensor, expected: Expectation) -> Tensor:
        """Return amounts and chances [B, 2, H, W] of residuals; it rains where the chance is positive."""
        z = self.codec.analysis(expected.amount, expected.wet) + self._spread(expected) * x
        return self.codec.decode(z)

    def _spread(self, expected: Expectation) -> Tensor:
        spread = self.codec.spread(expected.spread, wet_spread(expected) / 2)
        return spread * self.scale[:, None, None]

    @torch.no_grad()
    def _measure(self, x: Tensor, whole: Tensor) -> Tensor:
        """Take the mean square of x at whole cells into the scale; return the old scale over the new one [Cz]."""
        square = (x.detach().square() * whole[:, None]).sum((0, 2, 3)) / whole.sum().clamp(min=1)
        self.batches += 1
        weight = torch.clamp(PACE / (self.batches.to(x) + PACE - 1), min=SLOWEST)
        ratio = torch.lerp(torch.ones_like(square), square, weight).sqrt().clamp(min=LEAST)
        self.scale *= ratio
        return 1 / ratio


def build_latent_networks(
    mean: dict[str, Any], flow: dict[str, Any], precondition: dict[str, Any], codec: RainCodec
) -> LatentNetworks:
    """Build both stages; `mean` and `flow` are further arguments of `HourglassTransformer`."""
    known: dict[str, Any] = {"cond_features": len(FEATURES)}
    first = HourglassTransformer(**{**known, "in_channels": len(FIELDS), "out_channels": 3, **mean})
    size = {"in_channels": codec.channels, "out_channels": codec.channels, "cond_channels": KNOWN * codec.factor**2}
    return LatentNetworks(first, HourglassTransformer(**{**known, **size, **flow}), precondition, codec)


def load_latent(model: ModelFolder, precondition: dict[str, Any]) -> LatentNetworks:
    """Build both stages and the codec from a model folder that has been opened."""
    document = model.document("codec")
    scale = document.pop("scale")
    gate = model.document(GATE) if (model.path / f"{GATE}.json").is_file() else None
    codec = RainCodec(model.load("codec", PrincipalDCAE), RainCodecMeta.from_dict(document), gate)
    mean, flow = (model.load(name, HourglassTransformer) for name in ("mean", "flow"))
    return LatentNetworks(mean, flow, precondition, codec, scale)
