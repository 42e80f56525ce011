"""gen.data.windows: states of a world in shuffled batches, the same after a restart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from torch import Tensor

from gen.data.synthetic import toy_world
from gen.data.variables import parse_channel
from gen.data.windows import ChunkStream, WorldReader
from gen.grid import LatLonGrid

CHANNELS = tuple(parse_channel(c) for c in ("2t", "z850", "z500", "q850"))
CHUNK, COUNT = 10, 75  # the last chunk is not whole


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("windows") / "world.zarr"
    names = ("geopotential", "specific_humidity", "2m_temperature")
    return toy_world(path, grid=LatLonGrid.gaussian(4, 8), names=names, levels=[500, 850], count=COUNT, chunk=CHUNK)


@pytest.fixture(scope="module")
def reader(world: Path) -> WorldReader:
    return WorldReader(world, CHANNELS)


def numbers(reader: WorldReader, batch: Tensor) -> list[int]:
    """Return the time indices of the states of a batch."""
    everything = reader.read(slice(0, COUNT))
    return [int((everything == state).all((1, 2, 3)).nonzero()[0, 0]) for state in batch]


def take(stream: ChunkStream, count: int) -> list[Tensor]:
    return [batch for _, batch in zip(range(count), stream, strict=False)]


def test_channels_come_in_the_order_asked(world: Path, reader: WorldReader) -> None:
    """Values, grid and clock are those that xarray reads, level by level."""
    with xr.open_zarr(world, consolidated=False) as ds:
        states = reader.read(slice(3, 25)).numpy()
        assert np.array_equal(states[:, 0], ds["2m_temperature"][3:25])
        for i, (name, level) in enumerate([("geopotential", 850), ("geopotential", 500), ("specific_humidity", 850)]):
            assert np.array_equal(states[:, i + 1], ds[name].sel(level=level)[3:25])
        assert np.array_equal(reader.hours, ds["time"].values.astype("datetime64[h]").astype(int))
        assert np.array_equal(reader.grid.latitude, ds["latitude"])
    assert reader.chunk == CHUNK and reader.span() == "2020-01-01T00 .. 2020-01-19T12"


def test_static_fields_are_normalised(reader: WorldReader) -> None:
    """Zero mean and unit variance over the grid, whatever the units."""
    fields = reader.static(["geopotential_at_surface", "land_sea_mask"])
    assert fields.shape == (2, 4, 8)
    torch.testing.assert_close(fields.mean((1, 2)), torch.zeros(2), rtol=0, atol=1e-5)
    torch.testing.assert_close(fields.std((1, 2)), torch.ones(2))


def test_intervals_are_half_open(reader: WorldReader) -> None:
    """The begin counts, the end does not, and times between the states round inwards."""
    assert reader.indices("2020-01-02", "2020-01-03") == (4, 8)
    assert reader.indices("2020-01-02T01", "2020-01-03T01") == (5, 9)
    with pytest.raises(ValueError, match=r"no times in \[2019-01-01, 2020-01-01\); the world covers 2020-01-01T00"):
        reader.indices("2019-01-01", "2020-01-01")


def test_what_is_missing_is_named(world: Path, tmp_path: Path) -> None:
    """Variables and levels, with those that are there; a world without levels serves surface channels."""
    with pytest.raises(ValueError, match="lacks mean_sea_level_pressure; it has .*geopotential"):
        WorldReader(world, [parse_channel("msl")])
    with pytest.raises(ValueError, match=r"lacks z700; its levels are \[500, 850\] hPa"):
        WorldReader(world, [parse_channel("z700")])
    flat = toy_world(
        tmp_path / "flat.zarr", grid=LatLonGrid.gaussian(4, 8), names=("2m_temperature",), count=8, chunk=4
    )
    assert WorldReader(flat, [parse_channel("2t")]).read(slice(0, 2)).shape == (2, 1, 4, 8)


def test_an_epoch_shows_every_state_of_whole_chunks_once(reader: WorldReader) -> None:
    """Seven whole chunks are mixed four at a time; the next epoch has another order, another seed another one."""
    stream = ChunkStream(reader, 0, COUNT, 10, seed=0)
    first, second = ([n for batch in take(stream, 7) for n in numbers(reader, batch)] for _ in range(2))
    assert sorted(first) == sorted(second) == list(range(70)) and first != second
    other = [n for b in take(ChunkStream(reader, 0, COUNT, 10, seed=1), 7) for n in numbers(reader, b)]
    assert other != first
    chunks = [{n // CHUNK for n in first[k : k + 10]} for k in range(0, 70, 10)]
    assert all(len(mixed) > 1 for mixed in chunks)


def test_batches_stay_in_the_interval(reader: WorldReader) -> None:
    """Only chunks that lie in [first, stop) as a whole are read."""
    seen = {n for batch in take(ChunkStream(reader, 5, 47, 4, seed=0), 20) for n in numbers(reader, batch)}
    assert seen == set(range(10, 40))
    with pytest.raises(ValueError, match="0 whole chunks of 10 times cannot feed 1 processes"):
        ChunkStream(reader, 5, 18, 4, seed=0)


def test_processes_share_the_chunks(reader: WorldReader) -> None:
    """In an epoch two processes see disjoint states, all of them together."""
    streams = [ChunkStream(reader, 0, 60, 10, seed=0, rank=r, world=2) for r in (0, 1)]
    seen = [{n for batch in take(s, 3) for n in numbers(reader, batch)} for s in streams]
    assert seen[0] | seen[1] == set(range(60)) and not seen[0] & seen[1]


@pytest.mark.parametrize("size", [7, 10])
def test_a_resumed_stream_goes_on(reader: WorldReader, size: int) -> None:
    """From any batch, also the last of a group or of an epoch, the batches are those of the unbroken stream."""
    unbroken, states, batches = ChunkStream(reader, 0, COUNT, size, seed=2), [], []
    for _, batch in zip(range(24), unbroken, strict=False):
        states.append(unbroken.state_dict())
        batches.append(batch)
    for k in range(0, 20, 3):
        resumed = ChunkStream(reader, 0, COUNT, size, seed=2)
        resumed.load_state_dict(states[k])
        for expected, batch in zip(batches[k + 1 : k + 5], take(resumed, 4), strict=True):
            assert torch.equal(batch, expected)
