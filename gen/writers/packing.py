"""Cut values into the chunks of a file and encode them, a piece of the lead axis at a time.

A chunk is encoded exactly as it will lie in the finished container (HDF5's shuffle + deflate, or Zarr's Blosc), so the
expensive step runs in threads while the model samples, and the container only copies bytes. Deflate uses run-length
matching at level 1: shuffled float32 has few longer matches, and any zlib reads it.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gen.writers.spec import ArrayPlan

__all__ = ["COMPRESSIONS", "Chunk", "ChunkBuffer", "Compress", "Encode", "encoder", "round_bits"]

Compress = Literal["fast", "small", "none"]
Chunk = tuple[int, int, int, int, NDArray[np.float32]]  # array, member, lead chunk, level chunk, values
Encode = Callable[[NDArray[np.float32], int], bytes]

COMPRESSIONS: dict[str, float] = {"fast": 0.75, "small": 0.4, "none": 1.0}  # expected bytes per byte, for estimates
MANTISSA_BITS = 23


def encoder(container: str, compress: Compress) -> Encode:
    """Return `encode(chunk, keep_bits) -> bytes` for a container ("netcdf" or "zarr") and a compression.

    "fast" is lossless, "small" first rounds to `keep_bits` mantissa bits, "none" stores plain little-endian float32.
    """
    if compress == "none":
        return lambda chunk, keep_bits: chunk.astype("<f4", copy=False).tobytes()
    pack = _deflate if container == "netcdf" else _blosc
    if compress == "small":
        return lambda chunk, keep_bits: pack(round_bits(chunk, keep_bits))
    return lambda chunk, keep_bits: pack(chunk)


def round_bits(values: NDArray[np.float32], keep_bits: int) -> NDArray[np.float32]:
    """Round float32 to `keep_bits` mantissa bits, ties to even; |error| <= 2^-(keep_bits+1) |value|.

    Values that are not finite are kept. Klöwer et al. 2021, "Compressing atmospheric data into its real information
    content".
    """
    if not 0 <= keep_bits <= MANTISSA_BITS:
        raise ValueError(f"keep_bits must be in 0..{MANTISSA_BITS}; got {keep_bits}")
    drop = MANTISSA_BITS - keep_bits
    if drop == 0:
        return values
    bits = np.ascontiguousarray(values).view(np.uint32)
    half = ((bits >> np.uint32(drop)) & np.uint32(1)) + np.uint32((1 << (drop - 1)) - 1)
    rounded = ((bits + half) & ~np.uint32((1 << drop) - 1)).view(np.float32)
    return np.where(np.isfinite(values), rounded, values)


class ChunkBuffer:
    """Collect the values of one unit (one initialisation, some members) and give back complete chunks.

    Pieces of the lead axis may come in any order and of any length; only chunks that are still incomplete are kept.

    Args:
        plans: the arrays of the file.
        members: number of members of the unit.
    """

    def __init__(self, plans: Sequence[ArrayPlan], members: int) -> None:
        self._plans, self._members = plans, members
        self._open: dict[tuple[int, int], NDArray[np.float32]] = {}
        self._seen = np.zeros(plans[0].leads, bool)

    @property
    def missing(self) -> list[int]:
        """Lead indices that have not come yet."""
        return np.flatnonzero(~self._seen).tolist()

    def add(self, values: NDArray[np.float32], leads: slice) -> Iterator[Chunk]:
        """Take values [members, leads, channels, rows, columns] and yield the chunks that they complete."""
        if self._seen[leads].any():
            raise ValueError(f"lead indices {leads.start}..{leads.stop - 1} were written before in this unit")
        self._seen[leads] = True
        for number, plan in enumerate(self._plans):
            size = plan.chunk_leads
            for k in range(leads.start // size, -(-leads.stop // size)):
                first, last = max(leads.start, k * size), min(leads.stop, (k + 1) * size)
                part = values[:, first - leads.start : last - leads.start]
                block = self._fill(number, k, part, first - k * size)
                if self._seen[k * size : (k + 1) * size].all():
                    del self._open[number, k]
                    yield from self._cut(number, k, block)

    def _fill(self, number: int, k: int, part: NDArray[np.float32], at: int) -> NDArray[np.float32]:
        plan = self._plans[number]
        if (number, k) not in self._open:
            shape = (self._members, plan.chunk_leads, len(plan.index), *plan.shape[-2:])
            self._open[number, k] = np.full(shape, np.nan, np.float32)
        block = self._open[number, k]
        for level, channel in enumerate(plan.index):
            if channel >= 0:
                source = part[:, :, channel]
                block[:, at : at + part.shape[1], level] = source[..., ::-1, :] if plan.flip else source
        return block

    def _cut(self, number: int, k: int, block: NDArray[np.float32]) -> Iterator[Chunk]:
        size = self._plans[number].chunk_levels
        for member in range(block.shape[0]):
            for j in range(self._plans[number].level_chunks):
                yield number, member, k, j, block[member, :, j * size : (j + 1) * size]


def _shuffle(chunk: NDArray[np.float32]) -> bytes:
    """Group the first, second, third and fourth bytes of all values (HDF5's shuffle filter)."""
    raw = np.frombuffer(chunk.astype("<f4", copy=False).tobytes(), np.uint8)
    return raw.reshape(math.prod(chunk.shape), 4).T.tobytes()


def _deflate(chunk: NDArray[np.float32]) -> bytes:
    stream = zlib.compressobj(1, zlib.DEFLATED, zlib.MAX_WBITS, 8, zlib.Z_RLE)
    return stream.compress(_shuffle(chunk)) + stream.flush()


def _blosc(chunk: NDArray[np.float32]) -> bytes:
    from numcodecs import Blosc

    return bytes(Blosc("zstd", clevel=1, shuffle=Blosc.SHUFFLE).encode(np.ascontiguousarray(chunk, "<f4")))
