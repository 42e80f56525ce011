"""Zarr stores and latent stores, read back by xarray and zarr."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
import zarr

from gen.writers.latent import open_latent
from gen.writers.spec import WriterError
from gen.writers.staged import StagedWriter
from gen.writers.zarr_store import crc32c


def test_crc32c_check_value():
    """The published check value of CRC-32C for "123456789" is E3069283."""
    assert crc32c(b"123456789") == 0xE3069283


@pytest.mark.parametrize("compress", ["fast", "none"])
@pytest.mark.parametrize("layout", ["weatherbench", "cf"])
def test_shards_written_by_hand_are_read_by_zarr(ensemble, tmp_path, layout, compress):
    """zarr decodes our shards (index, checksum, Blosc) to the exact values, through xarray with decoded times."""
    spec = ensemble.make_spec(layout)
    truth = ensemble.make_values(spec)
    with StagedWriter(tmp_path / "f.zarr", spec, "zarr", compress=compress) as writer:
        ensemble.write(writer, ensemble.UNITS, truth)
    with xr.open_zarr(tmp_path / "f.zarr") as data:
        if layout == "cf":
            assert np.array_equal(data["phi"].values, truth.transpose(1, 2, 0, 3, 4, 5)[:, :, :, :2])
            return
        assert np.array_equal(data["geopotential"].values, truth.swapaxes(0, 1)[:, :, :, :2])
        assert np.array_equal(data["2m_temperature"].values, truth.swapaxes(0, 1)[:, :, :, 4])
        assert np.array_equal(data["prediction_timedelta"].values, spec.leads)
        assert "valid_time" in data.coords and data.attrs["synthetic"] == "true"


def test_a_shard_belongs_to_one_member_of_one_start(ensemble, tmp_path):
    """Two processes never write the same file: one shard file per member and start, and nothing else."""
    spec = ensemble.make_spec()
    with StagedWriter(tmp_path / "f.zarr", spec, "zarr") as writer:
        ensemble.write(writer, ensemble.UNITS, ensemble.make_values(spec))
    array = zarr.open_array(tmp_path / "f.zarr", path="geopotential", mode="r")
    assert array.shards[:2] == (1, 1)
    assert all(s % c == 0 for s, c in zip(array.shards, array.chunks, strict=True))
    assert len(list((tmp_path / "f.zarr" / "geopotential").glob("c.*"))) == 6


@pytest.mark.parametrize("layout", ["weatherbench", "cf", "earth2studio"])
def test_latents_round_trip_with_their_codec_and_are_refused_by_another(ensemble, tmp_path, layout):
    """The store knows its codec, channels and grid, whatever the order of axes; another codec's hash is refused."""
    spec = ensemble.make_spec(layout, latent=True)
    truth = ensemble.make_values(spec)
    with StagedWriter(tmp_path / "z.zarr", spec, "latent") as writer:
        ensemble.write(writer, ensemble.UNITS, truth)
    opened = open_latent(tmp_path / "z.zarr", "c0dec")
    assert opened.channels == spec.channels and opened.grid == spec.grid and opened.members == 3
    assert np.array_equal(opened.inits, spec.inits) and np.array_equal(opened.leads, spec.leads)
    assert np.array_equal(opened.values(1, slice(0, 3), slice(1, 4)), truth[1, :, 1:4])
    with pytest.raises(WriterError, match="made with codec c0dec, this one is other"):
        open_latent(tmp_path / "z.zarr", "other")


def test_latents_without_a_codec_hash_are_not_written(ensemble, tmp_path):
    """A latent file that could be decoded by anything would be a trap."""
    with pytest.raises(WriterError, match="codec_hash"):
        StagedWriter(tmp_path / "z.zarr", ensemble.make_spec(latent=True, attrs={}), "latent")
    assert not list(tmp_path.iterdir())
