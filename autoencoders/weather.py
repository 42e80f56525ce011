"""Weather codec: physical fields to normalised latents and back.

`WeatherCodec` binds a deep-compression autoencoder to what makes its numbers mean something: the channels, the grid,
the normalisation, the static fields and the latent statistics. Latents leave it with zero mean and the spread that the
dynamics expect (unit variance unless the statistics say otherwise).

What people see lies on `grid`; the autoencoder may see less. Published weights (LaDCast, arXiv 2506.09193) leave out
the row at the South Pole and take a fixed number for sea-surface temperature over land; here the row and the gaps come
back when a latent is decoded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["WeatherCodec"]

import torch
from torch import Tensor, nn

from autoencoders.dcae import DCAE
from autoencoders.pole import restore_south_pole
from autoencoders.principal import PrincipalDCAE
from gen.data.normalize import Normalizer
from gen.data.variables import VARIABLES, Channel
from gen.grid import LatLonGrid


class WeatherCodec(nn.Module):
    """Encode physical states [B, C, H, W] into normalised latents [B, Cz, h, w] and decode them.

    Args:
        dcae: the autoencoder, working on normalised fields.
        normalizer: maps SI units to normalised fields; its channels are the codec's.
        grid: the latitude-longitude grid of the fields.
        static: normalised static fields [S, H', W] on `network_grid`, or None.
        orography: geopotential at the surface [H, W], m2 s-2, of the world the codec was trained on, or None.
        center, spread: mean field [C, H', W] and standard deviation [C] of normalised fields over the training data;
            with them the autoencoder works on anomalies (needed for 100 hPa geopotential: its 6 h change is 1.6 % of
            its variation between pole and equator). Without them it works on the normalised fields.
        latent_mean: mean per latent channel [Cz].
        latent_std: standard deviation per latent channel [Cz]; half of it makes latents leave with a spread of 2.
        south_pole: False where the autoencoder works without the southernmost row of `grid`, which is the pole: it is
            dropped before encoding and restored after decoding (`autoencoders.pole`).
        missing: by channel code, the normalised value that stands for "no data" (NaN) inside the autoencoder.
        land: bool [H, W] on `grid`: where the channels of `missing` have no value; decoding writes NaN there.

    Raises:
        ValueError: a channel of `missing` that is not there, `land` or `static` on another grid, or no row at the pole.
    """

    static: Tensor | None
    orography: Tensor | None
    land: Tensor | None
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
        south_pole: bool = True,
        missing: Mapping[str, float] | None = None,
        land: Tensor | None = None,
    ) -> None:
        """Bind the parts; without statistics latents pass unscaled."""
        super().__init__()
        self.dcae, self.normalizer, self.grid = dcae, normalizer, grid
        self.south_pole, self.missing = south_pole, dict(missing or {})
        self._check(static, land)
        width = dcae.latent_channels
        self.register_buffer("land", land)
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
    def network_grid(self) -> LatLonGrid:
        """Return the grid that the autoencoder sees."""
        return self.grid if self.south_pole else LatLonGrid(self.grid.latitude[1:], self.grid.longitude)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Return (Cz, h, w)."""
        spec = self.dcae.latent_spec(self.network_grid.shape)
        return spec.channels, *spec.shape

    def encode(self, values: Tensor) -> Tensor:
        """Encode fields in SI units [B, C, H, W]; NaN is allowed in the channels of `missing`.

        Raises:
            ValueError: a wrong shape, infinity, or NaN elsewhere.
        """
        expected = (len(self.channels), *self.grid.shape)
        if tuple(values.shape[1:]) != expected:
            raise ValueError(f"fields must have shape [B, {', '.join(map(str, expected))}]; got {tuple(values.shape)}")
        if bad := [c.code for i, c in enumerate(self.channels) if not self._usable(values[:, i], c.code)]:
            raise ValueError(f"fields hold NaN or infinity in {', '.join(bad)}; fill them before encoding")
        latent = self.dcae.encode(self.normalise(values), self.static).float()
        return (latent - self.latent_mean[:, None, None]) / self.latent_std[:, None, None]

    def decode(self, latent: Tensor, index: Sequence[int] | None = None) -> Tensor:
        """Decode latents [B, Cz, h, w] to SI units on `grid`, all channels or those of `index`.

        Physical limits are applied; the channels of `missing` are NaN over `land`.
        """
        raw = latent * self.latent_std[:, None, None] + self.latent_mean[:, None, None]
        keep = list(range(len(self.channels)) if index is None else index)
        fields = self._decoded(raw, keep).float()
        values = self.normalizer.inverse(self._restore(fields, keep), index=keep)
        channels = [self.channels[i] for i in keep]
        if not self.south_pole:
            values = restore_south_pole(values, channels, self.grid)
        return self._blank(limit(values, channels), channels)

    def normalise(self, values: Tensor) -> Tensor:
        """Return what the autoencoder sees [B, C, H', W] of fields in SI units [B, C, H, W]."""
        x = self.normalizer.forward(values if self.south_pole else values[..., 1:, :])
        for i, channel in enumerate(self.channels):
            if channel.code in self.missing:
                x[..., i, :, :] = x[..., i, :, :].nan_to_num(nan=self.missing[channel.code])
        if self.center is None or self.spread is None:
            return x
        return (x - self.center) / self.spread[:, None, None]

    def _decoded(self, raw: Tensor, keep: list[int]) -> Tensor:
        """Return normalised fields of the channels `keep`; the last layer of a `DCAE` computes no others."""
        return self.dcae.decode(raw, keep) if isinstance(self.dcae, DCAE) else self.dcae.decode(raw)[:, keep]

    def _usable(self, values: Tensor, code: str) -> bool:
        """Return whether one channel is finite, but for NaN where the channel may be missing."""
        bad = torch.isinf(values) if code in self.missing else ~torch.isfinite(values)
        return not bool(bad.any())

    def _blank(self, values: Tensor, channels: Sequence[Channel]) -> Tensor:
        """Write NaN over land into the channels that have no value there."""
        if self.land is None or not self.missing:
            return values
        gap = torch.tensor([c.code in self.missing for c in channels], device=values.device)
        return values.masked_fill(gap[:, None, None] & self.land, torch.nan)

    def _check(self, static: Tensor | None, land: Tensor | None) -> None:
        if unknown := [code for code in self.missing if code not in [c.code for c in self.channels]]:
            raise ValueError(f"missing names {', '.join(unknown)}, which the codec does not have")
        if not self.south_pole and abs(self.grid.latitude[0] + 90.0) > 1e-6:
            raise ValueError(f"without its South Pole a grid must begin at -90; got {self.grid.latitude[0]:g}")
        for name, field, grid in (("land", land, self.grid), ("static", static, self.network_grid)):
            if field is not None and tuple(field.shape[-2:]) != grid.shape:
                raise ValueError(f"{name} must lie on {grid.shape[0]} x {grid.shape[1]}; got {tuple(field.shape)}")

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
            "south_pole": self.south_pole,
            "missing": self.missing,
        }

    def to_tensors(self) -> dict[str, Tensor]:
        """Return the fields that belong to the codec but are not weights."""
        named = {"static": self.static, "orography": self.orography}
        named |= {"center": self.center, "spread": self.spread, "land": self.land}
        return {name: value.contiguous() for name, value in named.items() if value is not None}

    @classmethod
    def from_meta(cls, dcae: DCAE | PrincipalDCAE, meta: dict[str, Any], tensors: dict[str, Tensor]) -> WeatherCodec:
        """Rebuild a codec from `to_meta` and `to_tensors`."""
        fields = {name: value.bool() if name == "land" else value.float() for name, value in tensors.items()}
        return cls(
            dcae,
            Normalizer.from_dict(meta["normalizer"]),
            LatLonGrid.from_dict(meta["grid"]),
            latent_mean=torch.tensor(meta["latent_mean"], dtype=torch.float32),
            latent_std=torch.tensor(meta["latent_std"], dtype=torch.float32),
            south_pole=meta.get("south_pole", True),
            missing=meta.get("missing"),
            **fields,
        )


def limit(values: Tensor, channels: Sequence[Channel]) -> Tensor:
    """Apply the physical lower limits of the variable table (no negative rain or humidity) to [B, C, H, W]."""
    low = torch.tensor([-torch.inf if (m := VARIABLES[c.name].minimum) is None else m for c in channels])
    return torch.maximum(values, low.to(values)[:, None, None])
