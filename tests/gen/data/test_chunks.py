"""gen.data.chunks: chunk files give what Zarr gives, for every usual kind of array; unusual ones are left to Zarr."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest
import zarr
from zarr.codecs import BloscCodec, GzipCodec, ZstdCodec

from gen.data.chunks import ChunkFiles, direct

VALUES = np.random.default_rng(0).normal(size=(11, 3, 5, 8)).astype(np.float32)
SELECTIONS = [
    (slice(0, 11), slice(None), slice(None), slice(None)),
    (slice(3, 4), slice(1, 3), slice(None), slice(None)),
    (slice(1, 11, 3), slice(0, 1), slice(None), slice(None)),
    (slice(2, 10, 6), slice(None), slice(None), slice(2, 5)),
    (slice(4, 4), slice(1, 2), slice(None), slice(None)),
]


def stored(folder: Path, options: dict[str, Any], chunk: int = 4) -> Any:
    group = zarr.open_group(folder, mode="w", zarr_format=options.pop("zarr_format", 3))
    settings: dict[str, Any] = {"shape": VALUES.shape, "chunks": (chunk, 3, 5, 8), "dtype": "float32", **options}
    array = group.create_array("v", **settings)
    array[:] = VALUES
    return array


@pytest.mark.parametrize(
    "options",
    [
        {"compressors": None},
        {"compressors": BloscCodec(cname="lz4", shuffle="shuffle")},
        {"compressors": BloscCodec(cname="zstd", shuffle="bitshuffle")},
        {"compressors": ZstdCodec(level=1)},
        {"compressors": GzipCodec(level=1)},
        {"zarr_format": 2, "compressors": None},
        {"zarr_format": 2, "compressors": numcodecs.Blosc(cname="lz4")},
        {"zarr_format": 2, "compressors": numcodecs.Zstd(level=1)},
    ],
)
@pytest.mark.parametrize("chunk", [1, 4])
def test_files_give_the_same_bits_as_zarr(tmp_path: Path, options: dict[str, Any], chunk: int) -> None:
    """Formats 2 and 3, the usual compressors, a last chunk that is not whole, steps and parts of the other axes."""
    array = stored(tmp_path, dict(options), chunk)
    files = direct(array)
    assert isinstance(files, ChunkFiles) and files.shape == VALUES.shape
    for selection in SELECTIONS:
        assert np.array_equal(files[selection], VALUES[selection])
        assert np.array_equal(files[selection], array[selection])


def test_chunks_that_were_never_written_hold_the_fill_value(tmp_path: Path) -> None:
    """As in Zarr: NaN for a world that is not finished."""
    group = zarr.open_group(tmp_path, mode="w")
    array: Any = group.create_array("v", shape=(4, 2, 2), chunks=(1, 2, 2), dtype="float32", fill_value=float("nan"))
    array[0] = 1.0
    got = direct(array)[slice(0, 4), slice(None), slice(None)]
    assert (got[0] == 1).all() and np.isnan(got[1:]).all()


@pytest.mark.parametrize(
    "options",
    [
        {"chunks": (4, 1, 5, 8)},
        {"chunks": (2, 3, 5, 8), "shards": (4, 3, 5, 8)},
        {"dtype": "float64"},
        {"dtype": ">f4"},
        {"zarr_format": 2, "order": "F"},
        {"zarr_format": 2, "filters": [numcodecs.Delta(dtype="<f4")]},
        {"filters": [zarr.codecs.TransposeCodec(order=(0, 1, 3, 2))]},
        {"compressors": [ZstdCodec(), GzipCodec()]},
    ],
)
def test_unusual_arrays_are_left_to_zarr(tmp_path: Path, options: dict[str, Any]) -> None:
    """Chunks in level, shards, other types and byte orders, filters, two compressors."""
    array = stored(tmp_path, dict(options))
    assert direct(array) is array


def test_a_damaged_chunk_is_an_error(tmp_path: Path) -> None:
    """Half a file does not pass for data."""
    files = direct(stored(tmp_path, {"compressors": None}))
    path = next(p for p in (tmp_path / "v" / "c" / "0").rglob("*") if p.is_file())
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="reshape|buffer"):
        files[SELECTIONS[0]]
