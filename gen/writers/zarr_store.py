"""Zarr v3 container: metadata through zarr, shards assembled from chunks that are already encoded.

A shard holds one member of one initialisation of one array (all lead times, unless that exceeds 256 MB). It belongs to
exactly one unit, so several processes never touch the same file. Its layout is that of the `sharding_indexed` codec:
the encoded inner chunks, then an index of (offset, bytes) as little-endian uint64 and the CRC-32C of that index.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gen.writers.coordinates import coordinates, global_attributes
from gen.writers.journal import StagedUnit, sync, write_durably
from gen.writers.netcdf import FINGERPRINT, stored_attributes
from gen.writers.packing import Compress
from gen.writers.spec import ArrayPlan, FileSpec, plan

__all__ = ["ZarrContainer", "crc32c"]

KEY_SEPARATOR = "."  # all shards of an array in one folder: fewer folders to make and to flush
EMPTY = np.uint64(2**64 - 1)  # offset and size of an inner chunk that is not there


class ZarrContainer:
    """Append staged units to a partial Zarr store.

    Args:
        path: the partial store; kept when it exists, since each of its files is whole or absent.
        spec: what the store holds.
        attrs: global attributes.
        compress: how the chunks were encoded.
    """

    name = "zarr"
    keeps_units = True  # once its shards are written a unit needs no staged copy

    def __init__(self, path: Path, spec: FileSpec, attrs: dict[str, str], compress: Compress) -> None:
        self._path, self._plans = path, plan(spec)
        ready = path.with_suffix(".ready")
        if not ready.exists():
            shutil.rmtree(path, ignore_errors=True)
            _skeleton(path, spec, self._plans, attrs, compress)
            write_durably(ready, b"")

    def append(self, unit: StagedUnit) -> None:
        """Write the shards of one unit and flush them to the disk; interrupted, it can be repeated."""
        written: list[Path] = []
        for (number, member, shard), items in groupby(_with_shards(unit, self._plans), key=lambda item: item[0]):
            array = self._plans[number]
            key = ("c", *array.place(unit.start + member, unit.init, shard), *(0 for _ in array.shape[3:]))
            path = self._path / array.name / KEY_SEPARATOR.join(map(str, key))
            path.write_bytes(_shard(array, ((row, encoded) for _, row, encoded in items)))
            written.append(path)
        for path in dict.fromkeys([*written, *(p.parent for p in written)]):
            sync(path)

    def finish(self) -> None:
        """Gather the metadata in one place and flush it."""
        import zarr

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # consolidated metadata is a widely read extension of Zarr v3
            zarr.consolidate_metadata(str(self._path), zarr_format=3)
        write_durably(self._path / "zarr.json", (self._path / "zarr.json").read_bytes())
        sync(self._path)

    def abandon(self) -> None:
        """Leave the store as it is."""

    @staticmethod
    def fingerprint(path: Path) -> str | None:
        """Return the fingerprint of a finished store, None when it is not one of ours."""
        try:
            content: dict[str, Any] = json.loads((path / "zarr.json").read_text())
        except (OSError, ValueError):
            return None
        return content.get("attributes", {}).get(FINGERPRINT)


def crc32c(data: bytes) -> int:
    """Return the CRC-32C (Castagnoli) of `data`; for short inputs, a byte at a time (RFC 3720, B.4)."""
    register = 0xFFFFFFFF
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = register >> 1 ^ (0x82F63B78 if register & 1 else 0)
    return register ^ 0xFFFFFFFF


def _with_shards(
    unit: StagedUnit, plans: tuple[ArrayPlan, ...]
) -> Iterator[tuple[tuple[int, int, int], NDArray[np.int64], bytes]]:
    for row, encoded in unit.chunks():
        array = plans[int(row[0])]
        yield (int(row[0]), int(row[1]), int(row[2]) * array.chunk_leads // array.shard_leads), row, encoded


def _shard(array: ArrayPlan, chunks: Iterable[tuple[NDArray[np.int64], bytes]]) -> bytes:
    leads = array.shard_leads // array.chunk_leads
    index = np.full((leads, array.level_chunks, 2), EMPTY, "<u8")
    parts, offset = [], 0
    for row, encoded in chunks:
        index[int(row[2]) % leads, int(row[3])] = offset, len(encoded)
        parts.append(encoded)
        offset += len(encoded)
    table = index.tobytes()
    return b"".join([*parts, table, crc32c(table).to_bytes(4, "little")])


def _skeleton(
    path: Path, spec: FileSpec, plans: tuple[ArrayPlan, ...], attrs: dict[str, str], compress: Compress
) -> None:
    import zarr
    from zarr.codecs import BloscCodec

    pack = None if compress == "none" else BloscCodec(typesize=4, cname="zstd", clevel=1, shuffle="shuffle")
    root = zarr.open_group(str(path), mode="w", zarr_format=3, attributes={**global_attributes(spec), **attrs})
    for coordinate in coordinates(spec):
        array = root.create_array(
            coordinate.name,
            shape=coordinate.values.shape,
            dtype=coordinate.values.dtype,
            chunks=coordinate.values.shape,
            dimension_names=coordinate.dims,
            attributes=dict(coordinate.attrs),
            compressors=None,
        )
        array[...] = coordinate.values
    for data in plans:
        root.create_array(
            data.name,
            shape=data.shape,
            dtype="float32",
            chunks=data.chunks,
            shards=data.shards,
            dimension_names=data.dims,
            attributes=dict(stored_attributes(data, compress)),
            compressors=pack,
            fill_value=np.nan,
            chunk_key_encoding={"name": "default", "separator": KEY_SEPARATOR},
        )
