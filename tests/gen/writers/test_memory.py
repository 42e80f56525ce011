"""gen.writers.memory: a forecast in memory is what xarray reads from the file."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from gen.writers.memory import MemoryWriter
from gen.writers.staged import StagedWriter


@pytest.mark.parametrize("latent", [False, True])
@pytest.mark.parametrize("layout", ["weatherbench", "cf", "earth2studio"])
def test_memory_and_file_are_the_same(ensemble, tmp_path, layout, latent):
    """Values (also NaN), names, dimensions, coordinates, times and attributes, whatever order the blocks come in.

    A file has one attribute more: the fingerprint of its request.
    """
    spec = ensemble.make_spec(layout, latent)
    values = ensemble.make_values(spec)
    values[:, :, :, 0, 1, 2] = np.nan
    writer = MemoryWriter(spec)
    for init, members in reversed(ensemble.UNITS):
        writer.write(init, members, values[init, members, 3:], slice(3, 5))
        writer.write(init, members, values[init, members, :3], slice(0, 3))
    memory = writer.dataset()
    path = tmp_path / ("a.zarr" if latent else "a.nc")
    with StagedWriter(path, spec, "latent" if latent else "netcdf") as file:
        ensemble.write(file, ensemble.UNITS, values)
    with xr.open_dataset(path, engine="zarr" if latent else "h5netcdf") as expected:
        if latent:  # of which the file says more, so that it can be decoded
            expected.attrs = {k: v for k, v in expected.attrs.items() if k in memory.attrs}
        expected.attrs.pop("request_fingerprint", None)
        xr.testing.assert_identical(memory, expected.load())


def test_what_is_not_written_is_nan(ensemble):
    """A forecast that was stopped does not look complete."""
    spec = ensemble.make_spec()
    writer = MemoryWriter(spec)
    writer.write(1, slice(0, 2), ensemble.make_values(spec)[1, :2], slice(0, 5))
    gaps = writer.dataset()["2m_temperature"].isnull().all(("latitude", "longitude", "prediction_timedelta"))
    assert gaps.transpose("time", "number").values.tolist() == [[True, True, True], [False, False, True]]
