"""Shuffled batches of states from a Zarr world, read chunk by chunk.

Whole time chunks are read in a seeded random order and mixed in groups, so that the disk is read sequentially while a
batch still holds states far apart in time. The stream's position is its state: a resumed run sees the same batches.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

__all__ = ["ChunkStream", "Reader", "WorldReader", "open_world"]

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from gen.data.chunks import direct
from gen.data.reader import StoreReader
from gen.data.variables import Channel
from gen.grid import LatLonGrid


class Reader(Protocol):
    """What a stream of batches needs of a reader."""

    @property
    def chunk(self) -> int:
        """Return how many times are best read together."""
        ...

    def blocks(self, first: int, stop: int) -> list[tuple[int, int]]:
        """Return the index ranges in [first, stop) that are best read as a whole."""
        ...

    def read(self, where: slice) -> Tensor:
        """Return states [N, C, H, W]."""
        ...


def open_world(path: str | Path, channels: Sequence[Channel], every: int | None = None) -> StoreReader:
    """Open a Zarr store to train on: a simulated world, a store of `gen data era5`, WeatherBench 2 or ARCO-ERA5.

    Args:
        path: Zarr group, format 2 or 3, axes in any order; six-hourly precipitation may be there as hourly totals.
        channels: the channels, in the order in which they are returned.
        every: keep the times whose hour since 1970 is a multiple of `every`.

    Raises:
        SourceError: when the store cannot be used, or a channel or the times are missing.
    """
    return StoreReader(path, channels, every)


class WorldReader:
    """Read channels of a Zarr world by time index.

    Args:
        path: Zarr group with dims (time, [level], latitude, longitude), WeatherBench names, latitude ascending.
        channels: the channels, in the order in which they are returned.

    Raises:
        ValueError: when a variable or level is missing.
    """

    def __init__(self, path: str | Path, channels: Sequence[Channel]) -> None:
        """Open the store and look every channel up."""
        import zarr

        self.group: Any = zarr.open_group(str(path), mode="r")
        self.channels = tuple(channels)
        self.hours = np.asarray(self.group["time"], dtype=np.int64)
        self.grid = LatLonGrid(np.asarray(self.group["latitude"]), np.asarray(self.group["longitude"]))
        missing = [c.name for c in self.channels if c.name not in self.group]
        if missing:
            raise ValueError(f"{path} lacks {', '.join(missing)}; it has {', '.join(sorted(self.group.array_keys()))}")
        levels = {int(p): i for i, p in enumerate(np.asarray(self.group["level"]) if "level" in self.group else ())}
        absent = [c.code for c in self.channels if c.level is not None and c.level not in levels]
        if absent:
            raise ValueError(f"{path} lacks {', '.join(absent)}; its levels are {sorted(levels)} hPa")
        self._levels = levels
        self._arrays = {name: direct(self.group[name]) for name in dict.fromkeys(c.name for c in self.channels)}

    @property
    def chunk(self) -> int:
        """Return the number of times in one chunk of the store."""
        return int(self.group[self.channels[0].name].chunks[0])

    @property
    def segments(self) -> list[dict[str, int]]:
        """Return the independent stretches of the world, [{"first": i, "stop": j}, ...]."""
        stated = self.group.attrs.get("segments") or [{"first": 0, "stop": len(self.hours)}]
        return [{"first": int(s["first"]), "stop": int(s["stop"])} for s in stated]

    def blocks(self, first: int, stop: int) -> list[tuple[int, int]]:
        """Return the index ranges of the whole chunks of the store in [first, stop)."""
        return [
            (a, a + self.chunk) for a in range(-(-first // self.chunk) * self.chunk, stop - self.chunk + 1, self.chunk)
        ]

    def read(self, where: slice) -> Tensor:
        """Return the states of `where` as float32 [N, C, H, W], SI units."""
        out = np.empty((len(self.hours[where]), len(self.channels), *self.grid.shape), dtype=np.float32)
        for name, array in self._arrays.items():
            block = np.asarray(array[(where, *(slice(None),) * (len(array.shape) - 1))])
            for i, channel in enumerate(self.channels):
                if channel.name == name:
                    out[:, i] = block if channel.level is None else block[:, self._levels[channel.level]]
        return torch.from_numpy(out)

    def static(self, names: Sequence[str]) -> Tensor:
        """Return static fields [S, H, W], each normalised to zero mean and unit variance."""
        fields = [torch.from_numpy(np.asarray(self.group[name], dtype=np.float32)) for name in names]
        return torch.stack([(f - f.mean()) / f.std() for f in fields])

    def indices(self, begin: str, end: str) -> tuple[int, int]:
        """Return the half-open index range of the calendar interval [begin, end)."""
        limits = [np.datetime64(t, "h").astype(np.int64) for t in (begin, end)]
        first, stop = (int(i) for i in np.searchsorted(self.hours, limits))
        if stop <= first:
            raise ValueError(f"no times in [{begin}, {end}); the world covers {self.span()}")
        return first, stop

    def span(self) -> str:
        """Return the covered interval as text."""
        return " .. ".join(str(np.datetime64(int(h), "h")) for h in self.hours[[0, -1]])


class ChunkStream(IterableDataset[Tensor]):
    """Yield endless shuffled batches [B, C, H, W] of the times [first, stop); stateful.

    Args:
        reader: where states come from.
        first, stop: index range of the times.
        batch_size: states in a batch.
        seed: selects the order.
        rank, world: this process and the number of processes.
        mix: chunks that are shuffled together; as many more as a batch needs where chunks are short.
    """

    def __init__(
        self,
        reader: Reader,
        first: int,
        stop: int,
        batch_size: int,
        *,
        seed: int,
        rank: int = 0,
        world: int = 1,
        mix: int = 4,
    ) -> None:
        """Split the interval into chunks."""
        self.reader, self.batch_size, self.seed = reader, batch_size, seed
        self.rank, self.world = rank, world
        chunk = reader.chunk
        self.mix = max(mix, -(-batch_size // chunk))
        self.chunks = reader.blocks(first, stop)
        if len(self.chunks) < world:
            raise ValueError(f"{len(self.chunks)} whole chunks of {chunk} times cannot feed {world} processes")
        self.position = {"epoch": 0, "group": 0, "batch": 0}

    def state_dict(self) -> dict[str, int]:
        """Return the position of the next batch."""
        return dict(self.position)

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go to a position returned by `state_dict`."""
        self.position = dict(state)

    def __iter__(self) -> Iterator[Tensor]:
        """Yield batches from the current position on, without end."""
        while True:
            rng = np.random.Generator(np.random.Philox(key=[self.seed, self.position["epoch"]]))
            order = rng.permutation(len(self.chunks))[self.rank :: self.world]
            groups = self._groups(order)
            for number in range(self.position["group"], len(groups)):
                yield from self._group(groups[number], number, len(groups))

    def _groups(self, order: np.ndarray) -> list[np.ndarray]:
        """Cut the order of chunks into groups; a last one too short for a batch joins the one before."""
        groups = [order[i : i + self.mix] for i in range(0, len(order), self.mix)]
        if len(groups) > 1 and sum(b - a for a, b in (self.chunks[i] for i in groups[-1])) < self.batch_size:
            groups[-2:] = [np.concatenate(groups[-2:])]
        return groups

    def _group(self, group: np.ndarray, number: int, total: int) -> Iterator[Tensor]:
        states = torch.cat([self.reader.read(slice(*self.chunks[i])) for i in group])
        rng = np.random.Generator(np.random.Philox(key=[self.seed + 1, self.position["epoch"] * total + number]))
        shuffle = torch.from_numpy(rng.permutation(len(states)))
        batches = max(1, len(states) // self.batch_size)
        for b in range(self.position["batch"], batches):
            last = b + 1 == batches
            self.position["batch"] = 0 if last else b + 1
            if last:
                self.position["group"] = (number + 1) % total
                self.position["epoch"] += number + 1 == total
            yield states[shuffle[b * self.batch_size : (b + 1) * self.batch_size]]
