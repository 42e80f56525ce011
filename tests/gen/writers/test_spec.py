"""What a file holds and how it is cut."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gen.data.variables import Channel, make_channels
from gen.grid import LatLonGrid
from gen.writers.spec import FileSpec, plan


def spec_of(shape: tuple[int, int], leads: int, **more) -> FileSpec:
    channels = make_channels(["geopotential", "temperature", "2m_temperature"], [250, 500, 850])
    return FileSpec(
        more.pop("channels", channels),
        LatLonGrid.equiangular(*shape),
        members=4,
        inits=np.array(["2024-01-01"], "datetime64[h]"),
        leads=np.arange(6, 6 * leads + 1, 6).astype("timedelta64[h]"),
        **more,
    )


@pytest.mark.parametrize("shape", [(8, 16), (48, 96), (121, 240), (361, 720)])
@pytest.mark.parametrize("layout", ["weatherbench", "cf", "earth2studio"])
def test_a_chunk_is_whole_maps_of_one_member_and_shards_are_whole_chunks(shape, layout):
    """Units stay separable: no chunk spans two members or starts, no map is cut, and shard = n chunks exactly."""
    for array in plan(spec_of(shape, 41, layout=layout)):
        assert array.place(1, 1, array.chunk_leads) == array.chunks[:3]
        assert array.chunks[-2:] == shape
        assert array.shard_leads % array.chunk_leads == 0
        assert len(array.index) % array.chunk_levels == 0
        assert all(s % c == 0 for s, c in zip(array.shards, array.chunks, strict=True))


@pytest.mark.parametrize("shape", [(8, 16), (48, 96), (121, 240)])
def test_chunks_are_large_enough_to_read_and_small_enough_to_skip(shape):
    """Between 16 KB and 256 KB, unless the array itself (41 lead times) or one map is beyond that."""
    for array in plan(spec_of(shape, 41)):
        size = 4 * math.prod(array.chunks)
        whole = 4 * math.prod(array.shape[2:])
        assert min(16_384, whole // 2) <= size <= 262_144


def test_a_variable_without_some_level_keeps_its_place():
    """z500 and t850 share the level axis (500, 850); the absent combinations are marked -1 and read as NaN."""
    channels = (Channel("geopotential", 500), Channel("temperature", 850))
    arrays = {array.name: array for array in plan(spec_of((8, 16), 2, channels=channels))}
    assert arrays["geopotential"].index == (0, -1)
    assert arrays["temperature"].index == (-1, 1)


def test_impossible_requests_are_refused():
    """Each message names the value and the rule."""
    good = spec_of((8, 16), 2)
    for change, text in [
        ({"layout": "grib"}, "layout must be one of"),
        ({"members": 0}, "members must be at least 1"),
        ({"channels": ()}, "channels must be distinct"),
        ({"leads": np.array([12, 6], "timedelta64[h]")}, "leads must be ascending"),
    ]:
        facts = {k: getattr(good, k) for k in ("channels", "grid", "members", "inits", "leads")} | change
        with pytest.raises(ValueError, match=text):
            FileSpec(**facts)
