"""Normalisation: SI units to fields of zero mean and unit variance per channel, and back.

`y = (T(x) - mean) / std` with `T(x) = x`, or `T(x) = log(1 + x / scale)` for amounts with a long tail such as
precipitation. Statistics are those of T(x) over times and places, every grid value with the same weight.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Normalizer"]

import torch
from torch import Tensor

from gen.data.variables import Channel, parse_channel

TRANSFORMS = ("linear", "log1p")


@dataclass(frozen=True, eq=False)
class Normalizer:
    """Map channels to unit variance and back.

    Args:
        channels: the channels, in the order of the channel axis.
        mean: mean of the transformed channel [C].
        std: standard deviation of the transformed channel [C], positive.
        transform: "linear" or "log1p" for each channel.
        scale: the amount, in SI units, that log1p takes as one; unused for linear channels.
    """

    channels: tuple[Channel, ...]
    mean: Tensor
    std: Tensor
    transform: tuple[str, ...] = ()
    scale: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Fill in the defaults and check lengths and ranges."""
        count = len(self.channels)
        for name, default in (("transform", ("linear",) * count), ("scale", (1.0,) * count)):
            object.__setattr__(self, name, tuple(getattr(self, name)) or default)
        object.__setattr__(self, "channels", tuple(self.channels))
        for name in ("mean", "std"):
            object.__setattr__(self, name, torch.as_tensor(getattr(self, name), dtype=torch.float64))
        lengths = {len(getattr(self, name)) for name in ("mean", "std", "transform", "scale")}
        if lengths != {count}:
            raise ValueError(f"mean, std, transform and scale need one entry for each of the {count} channels")
        if unknown := set(self.transform) - set(TRANSFORMS):
            raise ValueError(f"transform must be one of {', '.join(TRANSFORMS)}; got {', '.join(sorted(unknown))}")
        for channel, std, scale in zip(self.channels, self.std.tolist(), self.scale, strict=True):
            if not std > 0 or not scale > 0:
                raise ValueError(f"std and scale must be positive; {channel.code} has std {std:g}, scale {scale:g}")

    def forward(self, values: Tensor) -> Tensor:
        """Normalise [..., C, H, W] in SI units."""
        mean, std = (self._column(s, values) for s in (self.mean, self.std))
        return (_transform(values, self._log_rows(range(len(self.channels)))) - mean) / std

    def inverse(self, values: Tensor, index: Sequence[int] | None = None) -> Tensor:
        """Return SI units from normalised [..., C, H, W]; `index` says which channels these are (default: all)."""
        keep = list(range(len(self.channels)) if index is None else index)
        mean, std = (self._column(s[keep], values) for s in (self.mean, self.std))
        physical = values * std + mean
        for row, scale in self._log_rows(keep).items():
            physical[..., row, :, :] = scale * torch.expm1(physical[..., row, :, :])
        return physical

    def select(self, channels: Sequence[Channel]) -> Normalizer:
        """Return the normaliser of some of the channels."""
        keep = [self.channels.index(c) for c in channels]
        return Normalizer(
            tuple(channels),
            self.mean[keep],
            self.std[keep],
            tuple(self.transform[i] for i in keep),
            tuple(self.scale[i] for i in keep),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON-ready values."""
        return {
            "channels": [c.code for c in self.channels],
            "mean": self.mean.tolist(),
            "std": self.std.tolist(),
            "transform": list(self.transform),
            "scale": list(self.scale),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Normalizer:
        """Rebuild from `to_dict`."""
        channels = tuple(parse_channel(code) for code in values["channels"])
        mean, std = (torch.tensor(values[k], dtype=torch.float64) for k in ("mean", "std"))
        return cls(channels, mean, std, tuple(values.get("transform", ())), tuple(values.get("scale", ())))

    @classmethod
    def fit(
        cls,
        batches: Iterator[Tensor],
        channels: Sequence[Channel],
        log1p: Mapping[Channel, float] | None = None,
    ) -> Normalizer:
        """Measure mean and standard deviation of batches [N, C, H, W]; NaN is left out.

        Args:
            batches: states in SI units; one pass, in float64, with merged moments (Chan et al. 1979).
            channels: their channels.
            log1p: channels that get the log1p transform, with their scale in SI units.

        Raises:
            ValueError: when there are no data or a channel is constant.
        """
        logs = {i: (log1p or {})[c] for i, c in enumerate(channels) if c in (log1p or {})}
        count = mean = square = torch.zeros(len(channels), dtype=torch.float64)
        for batch in batches:
            part = _moments(_transform(batch.double(), logs))
            count, mean, square = _merge((count, mean, square), part)
        if not bool((count > 0).all()):
            raise ValueError("no data to fit the normalisation to")
        return cls(
            tuple(channels),
            mean,
            (square / count).sqrt(),
            tuple("log1p" if i in logs else "linear" for i in range(len(channels))),
            tuple(float(logs.get(i, 1.0)) for i in range(len(channels))),
        )

    def _log_rows(self, keep: Sequence[int]) -> dict[int, float]:
        """Return row -> scale for the log1p channels among `keep`."""
        return {row: self.scale[i] for row, i in enumerate(keep) if self.transform[i] == "log1p"}

    @staticmethod
    def _column(statistic: Tensor, values: Tensor) -> Tensor:
        return statistic.to(values)[:, None, None]


Moments = tuple[Tensor, Tensor, Tensor]


def _transform(values: Tensor, logs: Mapping[int, float]) -> Tensor:
    """Apply log1p(x / scale), x >= 0, to the channels in `logs`."""
    if not logs:
        return values
    values = values.clone()
    for i, scale in logs.items():
        values[..., i, :, :] = torch.log1p(values[..., i, :, :].clamp(min=0) / scale)
    return values


def _moments(values: Tensor) -> Moments:
    """Return count, mean and sum of squared deviations per channel of [N, C, H, W]."""
    rows = values.transpose(0, 1).flatten(1)
    count = rows.isfinite().sum(1).double()
    mean = rows.nanmean(1)
    return count, mean.nan_to_num(), (rows - mean[:, None]).square().nansum(1)


def _merge(a: Moments, b: Moments) -> Moments:
    count = a[0] + b[0]
    share = b[0] / count.clamp(min=1)
    delta = b[1] - a[1]
    return count, a[1] + delta * share, a[2] + b[2] + delta.square() * a[0] * share
