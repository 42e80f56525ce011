"""Weather codec: physical fields to normalised latents and back.

`WeatherCodec` binds a deep-compression autoencoder to what makes its numbers mean something: the channels, the grid,
the normalisation, the static fields and the latent statistics. Latents leave it with zero mean and unit variance.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["WeatherCodec"]

import torch
from torch import Tensor, nn

from autoencoders.dcae import DCAE
from autoencoders.principal import PrincipalDCAE
from gen.data.normalize import Normalizer
from gen.data.variables import VARIABLES, Channel
from gen.grid import LatLonGrid


class WeatherCodec(nn.Module):
    """Encode physical states [B, C, H, W] into unit-variance latents [B, Cz, h, w] and decode them.

    Args:
        dcae: the autoencoder, working on normalised fields.
        normalizer: maps SI units to normalised fields; its channels are the codec's.
        grid: the latitude-longitude grid of the fields.
        static: normalised static fields [S, H, W], or None.
        orography: geopotential at the surface [H, W], m2 s-2, of the world the codec was trained on, or None.
        center, spread: mean field [C, H, W] and standard deviation [C] of the normalised fields over the training data;
            with them the autoencoder works on anomalies (needed for 100 hPa geopotential: its 6 h change is 1.6 % of
            its variation between pole and equator). Without them it works on the normalised fields.
        latent_mean: mean per latent channel [Cz].
        latent_std: standard deviation per latent channel [Cz].
    """

    static: Tensor | None
    orography: Tensor | None
    center: Tensor | None
    spread: Tensor | None
    latent_mean: Tensor
    latent_std: Tensor

    def __init__(
        self,
        dcae: DCAE | PrincipalDCAE,
        normalizer: Normalizer,
        grid: LatLonGrid,
        static: Tensor | None = None,
        center: Tensor | None = None,
        spread: Tensor | None = None,
        orography: Tensor | None = None,
        latent_mean: Tensor | None = None,
        latent_std: Tensor | None = None,
    ) -> None:
        """Bind the parts; without statistics latents pass unscaled."""
        super().__init__()
        self.dcae, self.normalizer, self.grid = dcae, normalizer, grid
        width = dcae.latent_channels
        self.register_buffer("static", static)
        self.register_buffer("orography", orography)
        self.register_buffer("center", center)
        self.register_buffer("spread", spread)
        self.register_buffer("latent_mean", torch.zeros(width) if latent_mean is None else latent_mean)
        self.register_buffer("latent_std", torch.ones(width) if latent_std is None else latent_std)

    @property
    def channels(self) -> tuple[Channel, ...]:
        """Return the channels of the physical fields."""
        return tuple(self.normalizer.channels)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Return (Cz, h, w)."""
        spec = self.dcae.latent_spec(self.grid.shape)
        return spec.channels, *spec.shape

    def encode(self, values: Tensor) -> Tensor:
        """Encode fields in SI units [B, C, H, W]; raises ValueError on a wrong shape or NaN."""
        expected = (len(self.channels), *self.grid.shape)
        if tuple(values.shape[1:]) != expected:
            raise ValueError(f"fields must have shape [B, {', '.join(map(str, expected))}]; got {tuple(values.shape)}")
        if not bool(torch.isfinite(values).all()):
            bad = [c.code for i, c in enumerate(self.channels) if not bool(torch.isfinite(values[:, i]).all())]
            raise ValueError(f"fields hold NaN or infinity in {', '.join(bad)}; fill them before encoding")
        latent = self.dcae.encode(self.normalise(values), self.static).float()
        return (latent - self.latent_mean[:, None, None]) / self.latent_std[:, None, None]

    def decode(self, latent: Tensor, index: Sequence[int] | None = None) -> Tensor:
        """Decode latents [B, Cz, h, w] to SI units, all channels or those of `index`; physical limits are applied."""
        raw = latent * self.latent_std[:, None, None] + self.latent_mean[:, None, None]
        fields = self.dcae.decode(raw).float()
        keep = range(len(self.channels)) if index is None else index
        values = self.normalizer.inverse(self._restore(fields[:, list(keep)], list(keep)), index=list(keep))
        return limit(values, [self.channels[i] for i in keep])

    def normalise(self, values: Tensor) -> Tensor:
        """Return what the autoencoder sees of fields in SI units [B, C, H, W]."""
        x = self.normalizer.forward(values)
        if self.center is None or self.spread is None:
            return x
        return (x - self.center) / self.spread[:, None, None]

    def _restore(self, x: Tensor, keep: list[int]) -> Tensor:
        """Undo the anomalies of the channels `keep`."""
        if self.center is None or self.spread is None:
            return x
        return x * self.spread[keep, None, None] + self.center[keep]

    def to_meta(self) -> dict[str, Any]:
        """Return everything but the weights and the tensors of `to_tensors` as JSON-ready values."""
        return {
            "family": type(self.dcae).__name__,
            "normalizer": self.normalizer.to_dict(),
            "grid": self.grid.to_dict(),
            "latent_mean": [float(v) for v in self.latent_mean],
            "latent_std": [float(v) for v in self.latent_std],
        }

    def to_tensors(self) -> dict[str, Tensor]:
        """Return the fields that belong to the codec but are not weights."""
        named = {"static": self.static, "orography": self.orography}
        named |= {"center": self.center, "spread": self.spread}
        return {name: value.contiguous() for name, value in named.items() if value is not None}

    @classmethod
    def from_meta(cls, dcae: DCAE | PrincipalDCAE, meta: dict[str, Any], tensors: dict[str, Tensor]) -> WeatherCodec:
        """Rebuild a codec from `to_meta` and `to_tensors`."""
        fields = {name: value.float() for name, value in tensors.items()}
        return cls(
            dcae,
            Normalizer.from_dict(meta["normalizer"]),
            LatLonGrid.from_dict(meta["grid"]),
            latent_mean=torch.tensor(meta["latent_mean"], dtype=torch.float32),
            latent_std=torch.tensor(meta["latent_std"], dtype=torch.float32),
            **fields,
        )


def limit(values: Tensor, channels: Sequence[Channel]) -> Tensor:
    """Apply the physical lower limits of the variable table (no negative rain or humidity) to [B, C, H, W]."""
    low = torch.tensor([-torch.inf if (m := VARIABLES[c.name].minimum) is None else m for c in channels])
    return torch.maximum(values, low.to(values)[:, None, None])
