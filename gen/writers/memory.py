"""A forecast in memory: an `xarray.Dataset` with the arrays, coordinates and attributes that a file would have."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gen.writers.coordinates import coordinates, global_attributes
from gen.writers.spec import FileSpec, plan

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["MemoryWriter"]


class MemoryWriter:
    """Gather blocks of a forecast.

    Args:
        spec: what a file would hold.
    """

    def __init__(self, spec: FileSpec) -> None:
        """Allocate every array; what is never written is NaN."""
        self.spec, self.plans = spec, plan(spec)
        self.arrays = [np.full(array.shape, np.nan, np.float32) for array in self.plans]

    def write(self, init: int, members: slice, values: NDArray[np.float32], leads: slice) -> None:
        """Put values [members, leads, channels, rows, columns] of one initialisation in their place."""
        values = np.asarray(values, np.float32)
        for array, target in zip(self.plans, self.arrays, strict=True):
            part = target[members, init, leads] if array.lead_axis == 2 else target[members, leads, init]
            levels = part if len(array.shape) == 6 else part[:, :, None]
            for level, channel in enumerate(array.index):
                if channel >= 0:
                    levels[:, :, level] = values[:, :, channel, ::-1] if array.flip else values[:, :, channel]

    def dataset(self) -> xr.Dataset:
        """Return the forecast as `xarray.open_dataset` would read it from a file."""
        import xarray as xr

        axes = {c.name: xr.Variable(c.dims, c.values, dict(c.attrs)) for c in coordinates(self.spec)}
        data = {p.name: xr.Variable(p.dims, a, dict(p.attrs)) for p, a in zip(self.plans, self.arrays, strict=True)}
        return xr.decode_cf(xr.Dataset({**axes, **data}, attrs=global_attributes(self.spec))).load()
