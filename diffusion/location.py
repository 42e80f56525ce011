r"""Where and when, as features of a network: spherical harmonics of the place, harmonics of the calendar.

Times are int64 hours since 1970-01-01T00 UTC, as everywhere in the suite; phases of year and day follow from integer
arithmetic on the proleptic Gregorian calendar and are exact to the last bit of float64.
"""

from __future__ import annotations

__all__ = [
    "calendar_features",
    "hour_phase",
    "ladcast_year_features",
    "latitude_features",
    "spherical_harmonics",
    "year_phase",
]

import math

import torch
from torch import Tensor

HOURS_PER_DAY = 24


def year_phase(hours: Tensor) -> Tensor:
    """Return the elapsed fraction of the calendar year in [0, 1), float64, of int64 hours since 1970-01-01T00.

    Raises:
        ValueError: ``hours`` is not an integer tensor (float32 cannot tell today's hours apart).
    """
    hours = _integers(hours)
    days = hours.div(HOURS_PER_DAY, rounding_mode="floor")
    year = 1970 + (400 * days).div(146097, rounding_mode="floor")
    year = year - (_days_before(year) > days).long()
    year = year + (_days_before(year + 1) <= days).long()
    begin, end = _days_before(year), _days_before(year + 1)
    return (hours - HOURS_PER_DAY * begin).double() / (HOURS_PER_DAY * (end - begin)).double()


def hour_phase(hours: Tensor) -> Tensor:
    """Return the elapsed fraction of the UTC day in [0, 1), float64, of int64 hours since 1970-01-01T00."""
    return _integers(hours).remainder(HOURS_PER_DAY).double() / HOURS_PER_DAY


def calendar_features(hours: Tensor, year_harmonics: int = 4, day_harmonics: int = 4) -> Tensor:
    """Return sin and cos of the harmonics of the year and of the day.

    Args:
        hours: int64 [B], hours since 1970-01-01T00 UTC.
        year_harmonics: cycles per year 1..n.
        day_harmonics: cycles per day 1..n.

    Returns:
        float32 [B, 2 (year_harmonics + day_harmonics)]: sines of the year, cosines of the year, the same of the day.
    """
    year = _harmonics(year_phase(hours), year_harmonics)
    return torch.cat([year, _harmonics(hour_phase(hours), day_harmonics)], dim=-1).float()


def ladcast_year_features(hours: Tensor, dim: int = 256) -> Tensor:
    """Return the year embedding of LaDCast (arXiv 2506.09193), which does not know the hour of the day.

    With p the phase of the year and n = dim / 2: [m_k sin(2 pi k p)]_k ++ [m_k cos(2 pi k p)]_k, k = 1..n and m_k =
    10000^(-(k-1)/n). Computed in float32 like the features that the published weights were trained with.

    Returns:
        float32 [B, dim].
    """
    half = dim // 2
    wave = torch.arange(half, dtype=torch.float32, device=hours.device)
    angles = (2 * math.pi * year_phase(hours).float())[..., None] * (wave + 1)
    decay = torch.exp(-math.log(10000.0) * wave / half)
    return torch.cat([angles.sin() * decay, angles.cos() * decay], dim=-1)


def latitude_features(lat_deg: Tensor, degree: int) -> Tensor:
    """Return the zonal harmonics sqrt(2 l + 1) P_l(sin lat), l = 1..degree, with mean square 1 over the sphere.

    Args:
        lat_deg: [N] degrees north.
        degree: number of features.

    Returns:
        float64 [N, degree].
    """
    table = _legendre(lat_deg, degree)
    return math.sqrt(4 * math.pi) * torch.stack([table[(n, 0)] for n in range(1, degree + 1)], dim=-1)


def spherical_harmonics(lat_deg: Tensor, lon_deg: Tensor, degree: int) -> Tensor:
    """Return the real orthonormal spherical harmonics Y_lm, l = 0..degree, m = -l..l.

    Args:
        lat_deg: [N] degrees north.
        lon_deg: [N] degrees east.
        degree: highest degree, at least 0.

    Returns:
        float64 [N, (degree + 1)^2], ordered by l, then m; their squares integrate to 1 over the unit sphere.
    """
    table, lon = _legendre(lat_deg, degree), torch.deg2rad(lon_deg.double())
    columns = []
    for n in range(degree + 1):
        for m in range(-n, n + 1):
            wave = torch.sin(-m * lon) if m < 0 else torch.cos(m * lon)
            columns.append(table[(n, abs(m))] * wave * (math.sqrt(2) if m else 1.0))
    return torch.stack(columns, dim=-1)


def _legendre(lat_deg: Tensor, degree: int) -> dict[tuple[int, int], Tensor]:
    """Return orthonormal associated Legendre functions by the stable three-term recurrence in l (no sign (-1)^m)."""
    lat = torch.deg2rad(lat_deg.double())
    x, y = lat.sin(), lat.cos()
    table = {(0, 0): torch.full_like(x, math.sqrt(1 / (4 * math.pi)))}
    for m in range(degree + 1):
        if m:
            table[(m, m)] = math.sqrt((2 * m + 1) / (2 * m)) * y * table[(m - 1, m - 1)]
        for n in range(m + 1, degree + 1):
            a = math.sqrt((4 * n * n - 1) / (n * n - m * m))
            b = math.sqrt(((n - 1) ** 2 - m * m) / (4 * (n - 1) ** 2 - 1)) if n > m + 1 else 0.0
            table[(n, m)] = a * (x * table[(n - 1, m)] - (b * table[(n - 2, m)] if b else 0.0))
    return table


def _harmonics(phase: Tensor, count: int) -> Tensor:
    angles = 2 * math.pi * phase[..., None] * torch.arange(1, count + 1, dtype=torch.float64, device=phase.device)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def _days_before(year: Tensor) -> Tensor:
    """Return the days from 1970-01-01 to January 1 of ``year``."""
    past = year - 1
    fourth, century, era = (past.div(n, rounding_mode="floor") for n in (4, 100, 400))
    return 365 * (year - 1970) + fourth - century + era - 477


def _integers(hours: Tensor) -> Tensor:
    if hours.is_floating_point():
        raise ValueError(f"hours must be an int64 tensor of hours since 1970-01-01; got {hours.dtype} - keep integers")
    return hours.long()
