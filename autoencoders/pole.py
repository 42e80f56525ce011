r"""The row at the South Pole that a network leaves out, restored from its neighbours.

Near a pole a smooth scalar has a zonal mean f(r) that is even in the distance r to the pole. The two components of a
smooth wind, measured along the local east and north, are an even function of r times cos(longitude) and
sin(longitude): at the pole itself a uniform wind U towards longitude a reads u = U sin(a - lon), v = U cos(a - lon).
Richardson extrapolation of either from the two last rows, at r_1 and r_2, removes the term in r^2:

    f(0) = (r_2^2 f(r_1) - r_1^2 f(r_2)) / (r_2^2 - r_1^2) + O(r^4),    (4 f_1 - f_2) / 3 on equally spaced rows.
"""

from __future__ import annotations

__all__ = ["restore_south_pole"]

from collections.abc import Sequence

import torch
from torch import Tensor

from gen.data.variables import Channel
from gen.grid import LatLonGrid


def restore_south_pole(fields: Tensor, channels: Sequence[Channel], grid: LatLonGrid) -> Tensor:
    """Return fields [B, C, H, W] on `grid`, whose first row is the South Pole, from all its other rows [B, C, H-1, W].

    A scalar has one value at the pole: its row there is constant. A component of the wind is a pure wave of zonal
    wavenumber one. Each channel is restored by itself, so that its values do not depend on what else is decoded.
    """
    distance = 90.0 + torch.from_numpy(grid.latitude[1:3].copy())
    near, far = distance.square().tolist()
    rows = fields[:, :, :2].contiguous()  # the order of sums, hence the bits, must not depend on the memory format
    pole = (far * rows[:, :, 0] - near * rows[:, :, 1]) / (far - near)
    vector = torch.tensor([c.variable.pole_sign < 0 for c in channels], device=fields.device)[:, None]
    row = torch.where(vector, _first_wave(pole, grid), pole.mean(-1, keepdim=True).expand_as(pole))
    return torch.cat([row[:, :, None], fields], dim=2)


def _first_wave(row: Tensor, grid: LatLonGrid) -> Tensor:
    """Return the part of rows [B, C, W] that has zonal wavenumber one (sums, not products of matrices: no autocast)."""
    longitude = torch.deg2rad(torch.from_numpy(grid.longitude.copy())).to(row)
    waves = torch.cos(longitude), torch.sin(longitude)
    parts = [2 * (row * wave).mean(-1, keepdim=True) * wave for wave in waves]
    return parts[0] + parts[1]
