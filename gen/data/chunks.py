"""Chunks of local Zarr arrays, read from their files without the machinery around them.

Zarr reads through an event loop and a pool of threads, which for chunks of a megabyte costs more than to decompress
them. Arrays of the usual kind (local, little-endian, at most one compressor, chunked in time only) are read here file
by file; `direct` gives every other array back as it is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

__all__ = ["ChunkFiles", "direct"]

import numpy as np

CODECS = ("blosc", "zstd", "gzip", "zlib", "lz4")


def direct(array: Any) -> Any:
    """Return an array that is read from its chunk files where that is possible, else the Zarr array itself."""
    whole = tuple(array.chunks[1:]) == tuple(array.shape[1:])
    root = getattr(array.store, "root", None)
    if not whole or not isinstance(root, Path) or array.dtype != np.dtype("<f4"):
        return array
    try:
        codec = _codec(array.metadata)
    except ValueError:
        return array
    return ChunkFiles(array, root / array.path, codec)


class ChunkFiles:
    """A Zarr array [time, ...] with chunks along the first axis only, indexed with slices of positive steps.

    Args:
        array: the Zarr array.
        folder: where its chunks lie.
        codec: the compressor of numcodecs, or None.
    """

    def __init__(self, array: Any, folder: Path, codec: Any) -> None:
        """Remember shape, fill value and the names of the files."""
        self.shape, self.chunks = tuple(array.shape), tuple(array.chunks)
        self._folder, self._codec = str(folder), codec
        self._fill = np.float32(array.fill_value if array.fill_value is not None else 0)
        self._key = array.metadata.encode_chunk_key

    def __getitem__(self, selection: tuple[slice, ...]) -> np.ndarray:
        """Return the values of a tuple of slices, one for each axis."""
        start, stop, step = selection[0].indices(self.shape[0])
        length, parts = self.chunks[0], []
        for number in range(start // length, -(-stop // length)):
            low = max(start, number * length)
            low += (start - low) % step
            high = min(stop, (number + 1) * length)
            if low < high:
                inside = slice(low - number * length, high - number * length, step)
                parts.append(self._chunk(number)[(inside, *selection[1:])])
        if len(parts) == 1:
            return parts[0]
        return (
            np.concatenate(parts) if parts else np.empty((0, *self.shape[1:]), np.float32)[(slice(0), *selection[1:])]
        )

    def _chunk(self, number: int) -> np.ndarray:
        """Return a whole chunk; one that was never written holds the fill value."""
        key = self._key((number, *(0,) * (len(self.shape) - 1)))
        try:
            with open(f"{self._folder}/{key}", "rb", buffering=0) as file:
                data: Any = file.read()
        except FileNotFoundError:
            return np.full(self.chunks, self._fill, np.float32)
        if self._codec is not None:
            data = self._codec.decode(data)
        return np.frombuffer(data, dtype="<f4").reshape(self.chunks)


def _codec(metadata: Any) -> Any:
    """Return the one compressor of an array, None for none; raise ValueError where there is more to it."""
    import numcodecs

    stated = metadata.to_dict()
    if metadata.zarr_format == 2:
        if stated.get("filters") or stated.get("order", "C") != "C":
            raise ValueError("filters or another order")
        codecs = [stated["compressor"]] if stated.get("compressor") else []
        names = [c["id"] if isinstance(c, dict) else c.codec_id for c in codecs]
    else:
        chain = list(stated["codecs"])
        head = chain.pop(0)
        if head["name"] != "bytes" or head.get("configuration", {}).get("endian", "little") != "little":
            raise ValueError("another serialisation")
        names = [c["name"] for c in chain]
    if len(names) > 1 or any(n not in CODECS for n in names):
        raise ValueError(f"codecs {names}")
    return numcodecs.get_codec({"id": names[0]}) if names else None
