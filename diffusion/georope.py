r"""GeoRoPE: rotary angles from physical coordinates, so that attention knows distances on the globe.

The channels of a head are divided among time, latitude and longitude, in this order. In an axis with n pairs of
channels, pair j turns by ``position * frequency_j``; scalar products of queries and keys then depend on differences of
position.

Periodic (default). With K = ``max_wavenumber`` and positions of latitude and longitude in radians:

    longitude   m_j = round(K^(j/(n-1))), integers from 1 to K: the embedding has the exact period of 360 degrees;
    latitude    K^(j/(n-1)), the same wave numbers, not rounded because a meridian does not close;
    time        theta^(-j/n), position in units of six hours.

Metric (`MetricRoPE`), for fields of a few hundred kilometres: positions in kilometres north and east, wavelengths from
the size of a token to that of the neighbourhood, the same everywhere on the globe and at every grid spacing.

Paper (LaDCast, arXiv 2506.09193, as in its published weights): theta^(-j/n) on all axes, latitude multiplied by 6. Only
pair 0 of longitude is periodic there: the date line is a seam.
"""

from __future__ import annotations

__all__ = ["TIME_UNIT_HOURS", "GeoRoPE", "MetricRoPE", "split_head"]

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

TIME_UNIT_HOURS = 6.0


def split_head(dim: int) -> tuple[int, int, int]:
    """Divide a head's channels among time (about 1/8), latitude and longitude (7/16 each), all even.

    Raises:
        ValueError: ``dim`` is odd or below 6.
    """
    if dim % 2 or dim < 6:
        raise ValueError(f"a head needs an even number of at least 6 channels for three axes; got {dim}")
    space = 2 * (7 * dim // 32)
    return dim - 2 * space, space, space


@dataclass(frozen=True)
class GeoRoPE:
    """Turn (time, latitude, longitude) into rotary angles.

    Args:
        axes_dim: even numbers of channels of a head for time, latitude and longitude.
        theta: ratio of the highest to the lowest frequency of the axes with real frequencies.
        periodic: integer wave numbers in longitude (default) or the paper's frequencies.
        max_wavenumber: K, the highest wave number of the periodic form; half the number of columns of the token grid
            resolves neighbours.
        latitude_scale: factor on the latitude in the paper's form.

    Raises:
        ValueError: an odd number of channels, or a value outside its range.
    """

    axes_dim: Sequence[int] = (16, 56, 56)
    theta: float = 256.0
    periodic: bool = True
    max_wavenumber: int = 16
    latitude_scale: float = 6.0

    def __post_init__(self) -> None:
        if len(self.axes_dim) != 3 or any(d < 0 or d % 2 for d in self.axes_dim) or sum(self.axes_dim) == 0:
            raise ValueError(f"axes_dim must be three even numbers (time, latitude, longitude); got {self.axes_dim}")
        if not self.theta > 1:
            raise ValueError(f"theta must be above 1; got {self.theta}")
        if self.max_wavenumber < 1:
            raise ValueError(f"max_wavenumber must be at least 1; got {self.max_wavenumber}")

    @property
    def dim(self) -> int:
        """Return the number of channels of a head."""
        return sum(self.axes_dim)

    def frequencies(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the float64 frequencies of time (per six hours), latitude and longitude (per radian)."""
        time, lat, lon = (d // 2 for d in self.axes_dim)
        if not self.periodic:
            return self._real(time), self._real(lat) * self.latitude_scale, self._real(lon)
        return self._real(time), self._waves(lat), self._waves(lon).round()

    def angles(self, time: Tensor, lat_deg: Tensor, lon_deg: Tensor) -> Tensor:
        """Return the angles of N places.

        Args:
            time: [N], in units of six hours from the starting state.
            lat_deg: [N] degrees north.
            lon_deg: [N] degrees east.

        Returns:
            float64 radians [N, dim / 2], time first, longitude last.
        """
        positions = (time.double(), torch.deg2rad(lat_deg.double()), torch.deg2rad(lon_deg.double()))
        return torch.cat(
            [p[:, None] * f.to(p.device) for p, f in zip(positions, self.frequencies(), strict=True)], dim=-1
        )

    def _real(self, pairs: int) -> Tensor:
        exponent = torch.arange(pairs, dtype=torch.float64, device="cpu") / max(pairs, 1)
        return torch.exp(-math.log(self.theta) * exponent)

    def _waves(self, pairs: int) -> Tensor:
        exponent = torch.arange(pairs, dtype=torch.float64, device="cpu") / max(pairs - 1, 1)
        return torch.exp(math.log(self.max_wavenumber) * exponent)


@dataclass(frozen=True)
class MetricRoPE:
    """Turn kilometres north and east into rotary angles; half of a head's channels belong to each.

        angle = 2 pi position / wavelength_j,    wavelength_j geometric from `shortest_km` to `longest_km`

    Args:
        dim: channels of a head, a multiple of 4.
        shortest_km: shortest wavelength; twice the distance of two tokens resolves neighbours.
        longest_km: longest wavelength.

    Raises:
        ValueError: a number of channels or a wavelength outside its range.
    """

    dim: int
    shortest_km: float = 4.0
    longest_km: float = 512.0

    def __post_init__(self) -> None:
        if self.dim < 4 or self.dim % 4:
            raise ValueError(f"dim must be a positive multiple of 4; got {self.dim}")
        if not 0 < self.shortest_km <= self.longest_km:
            raise ValueError(f"wavelengths must be positive and ascending; got {self.shortest_km}, {self.longest_km}")

    def angles(self, north_km: Tensor, east_km: Tensor) -> Tensor:
        """Return float64 radians [..., dim / 2], north first, of positions [...]."""
        pairs = self.dim // 4
        steps = torch.arange(pairs, dtype=torch.float64, device=north_km.device) / max(pairs - 1, 1)
        wavelengths = self.shortest_km * (self.longest_km / self.shortest_km) ** steps
        turns = [p.double()[..., None] / wavelengths for p in (north_km, east_km)]
        return 2 * math.pi * torch.cat(turns, dim=-1)
