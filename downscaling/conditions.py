r"""What is known before a fine field is drawn: fields on the fine grid and numbers per sample.

The coarse rain enters twice, as the cell a pixel lies in and linearly interpolated, together with the place of the
pixel inside its cell; nothing assumes that the ratio of the grids is an integer. Fine rows and columns are described by
their position in coarse cells: u = 2.25 means a quarter into the third cell.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["FEATURES", "FIELDS", "STATICS", "features", "known_fields", "place_km", "positions", "upsample"]

import math

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from downscaling.transform import RainTransform
from gen.grid import LatLonGrid
from gen.projected_grid import ProjectedGrid

STATICS = ("elevation", "slope_north", "slope_east", "land")
FIELDS = (
    "cell_amount", "linear_amount", "cell_wet", "valid",
    "row_sin", "row_cos", "column_sin", "column_cos",
    *STATICS, "statics_known",
)  # fmt: skip
FEATURES = (
    "log_factor", "log_spacing", "log_interval",
    "hour_sin", "hour_cos", "year_sin", "year_cos", "time_known",
    "latitude_sin", "latitude_cos",
)  # fmt: skip
EARTH_RADIUS_KM = 6371.0
ROUNDING = 1e-6  # of a coarse cell
_SECONDS_PER_YEAR = 365.2425 * 86400.0


def upsample(coarse: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """Return coarse fields on fine pixels: the mean over the pixel's area, and linear between cell centres.

    Args:
        coarse: [..., Hc, Wc]; beyond the outermost centres it is constant.
        rows: position u [H] of fine rows in coarse cells, 0 to Hc.
        columns: the same for columns [W], 0 to Wc.

    Returns:
        Two tensors [..., H, W].
    """
    cell = _over(_over(coarse, rows, -2), columns, -1)
    linear = _between(_between(coarse, rows, -2), columns, -1)
    return cell, linear


def known_fields(
    coarse: Tensor,
    rows: Tensor,
    columns: Tensor,
    transform: RainTransform,
    statics: Mapping[str, Tensor] | None = None,
) -> Tensor:
    """Return `FIELDS` [len(FIELDS), H, W] of a coarse rain field.

    Args:
        coarse: rain rate in mm/h [Hc, Wc], NaN where it is missing.
        rows: see `upsample`.
        columns: see `upsample`.
        transform: of the rain.
        statics: `STATICS` [H, W] each: elevation in km, slopes in m/m times 10, land fraction; all or none.
    """
    valid = torch.isfinite(coarse).float()
    filled = torch.nan_to_num(coarse.float(), nan=0.0)
    cell, linear = upsample(
        torch.stack([transform.forward(filled), transform.wet(filled).float(), valid]), rows, columns
    )
    u, v = (2 * math.pi * (t - t.floor()) for t in (rows, columns))
    shape = (len(rows), len(columns))
    phases = [u.sin()[:, None], u.cos()[:, None], v.sin()[None], v.cos()[None]]
    parts = [cell[0], linear[0], cell[1], cell[2], *(p.to(cell).expand(shape) for p in phases)]
    if statics:
        parts += [statics[name].to(cell) for name in STATICS] + [torch.ones(shape)]
    else:
        parts += [torch.zeros(shape)] * (len(STATICS) + 1)
    return torch.stack(parts)


def features(
    factor: float,
    spacing_km: float,
    interval_hours: float,
    latitude: float,
    longitude: float = 0.0,
    time: np.datetime64 | None = None,
    *,
    latitude_known: bool = True,
) -> Tensor:
    """Return `FEATURES` [len(FEATURES)].

    Args:
        factor: coarse over fine grid spacing.
        spacing_km: of the fine grid.
        interval_hours: time over which the rain is averaged.
        latitude: of the middle of the field, degrees.
        longitude: the same; it makes local solar time.
        time: middle of the interval, UTC; None leaves the phases of day and year out.
        latitude_known: whether the latitude is told; sine and cosine are both 0 if not.
    """
    values = [math.log2(factor) - 2.0, math.log2(spacing_km), math.log2(max(interval_hours, 1.0 / 60.0)) / 3.0]
    if time is None:
        values += [0.0] * 5
    else:
        seconds = (time - np.datetime64("2000-01-01T00", "s")) / np.timedelta64(1, "s")
        day = 2 * math.pi * (seconds / 86400.0 + longitude / 360.0)
        year = 2 * math.pi * seconds / _SECONDS_PER_YEAR
        values += [math.sin(day), math.cos(day), math.sin(year), math.cos(year), 1.0]
    phi, told = math.radians(latitude), float(latitude_known)
    return torch.tensor([*values, told * math.sin(phi), told * math.cos(phi)], dtype=torch.float32)


def positions(fine: ArrayLike, edges: ArrayLike) -> Tensor:
    """Return the positions of fine centres [H] in coarse cells with the given edges [Hc + 1], float64."""
    fine, edges = np.asarray(fine, dtype=np.float64), np.asarray(edges, dtype=np.float64)
    sign = -1.0 if edges[-1] < edges[0] else 1.0
    return torch.from_numpy(np.interp(sign * fine, sign * edges, np.arange(len(edges), dtype=np.float64)))


def place_km(grid: LatLonGrid | ProjectedGrid) -> Tensor:
    """Return kilometres north and east of every cell of a grid, float64 [2, H, W]; only differences mean something."""
    if isinstance(grid, ProjectedGrid):
        north, east = np.meshgrid(grid.y / 1000.0, grid.x / 1000.0, indexing="ij")
    else:
        phi = np.deg2rad(grid.latitude)[:, None]
        north = np.broadcast_to(phi, grid.shape) * EARTH_RADIUS_KM
        east = np.cos(phi) * np.deg2rad(grid.longitude - grid.longitude.mean())[None] * EARTH_RADIUS_KM
    return torch.from_numpy(np.stack([north, east]))


def _between(x: Tensor, positions: Tensor, dim: int) -> Tensor:
    """Interpolate linearly between cell centres along one dimension."""
    count = x.shape[dim]
    place = (positions - 0.5).clamp(0, count - 1)
    low = place.floor().long().clamp(max=max(count - 2, 0))
    high = (low + 1).clamp(max=count - 1)
    share: Any = (place - low).to(x)
    return _mixed(x, low, high, share, dim)


def _over(x: Tensor, positions: Tensor, dim: int) -> Tensor:
    """Average cells over evenly spaced pixels along one dimension; a pixel lies in one cell or across an edge."""
    count, half = x.shape[dim], float(positions.diff().max()) / 2 if len(positions) > 1 else 0.5  # outer ones may stick
    begin, end = positions - half, positions + half
    low, high = (begin + ROUNDING).floor().long(), (end - ROUNDING).floor().long()
    share = torch.where(high > low, (end - high) / (2 * half), torch.zeros((), dtype=end.dtype))
    return _mixed(x, low.clamp(0, count - 1), high.clamp(0, count - 1), share.to(x), dim)


def _mixed(x: Tensor, low: Tensor, high: Tensor, share: Tensor, dim: int) -> Tensor:
    if dim == -2:
        share = share[:, None]
    return torch.lerp(x.index_select(dim, low), x.index_select(dim, high), share)
