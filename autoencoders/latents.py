"""Latents on disk: states encoded once, with the statistics that the dynamics need.

The Zarr store holds `latent` [time, channel, y, x] (float16, spread as it leaves the codec), the time axis and the
segments of its source, moments of each chunk, and the SHA-256 of the codec: decoding with another codec is refused.
Chunks are not compressed (noise-like numbers would shrink by a tenth), so that reading a window at random is cheap and
the processes of a machine share the system's page cache.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

__all__ = ["LatentStore", "encode_analyses", "encode_world"]

import numpy as np
import torch
from torch import Tensor

from autoencoders.chunks import ChunkedTensor
from autoencoders.source import open_states
from autoencoders.store import load_codec
from autoencoders.weather import WeatherCodec

MEMORY_SHARE = 0.25  # of the free memory that a store may take when `in_memory` is "auto"


def encode_analyses(
    folder: Path,
    digest: str,
    source: str,
    out: Path,
    *,
    report: Callable[[int, int], None] = lambda done, total: None,
    start: str | None = None,
    stop: str | None = None,
    batch: int = 20,
    device: str | None = None,
    every: int | None = None,
    part: str = "1/1",
) -> Path:
    """Encode states (Zarr) with the codec of a model folder; `start` and `stop` select an interval of time.

    Args:
        folder: the model folder.
        digest: its SHA-256.
        source: Zarr store.
        out: store to write or to continue.
        report: gets (done, total) chunks.
        start: first time to encode; by default the source's first.
        stop: end of the interval, exclusive; by default the source's end.
        batch: states per call of the encoder.
        device: where to compute.
        every: keep only times whose hour is a multiple of it.
        part: "K/N": do the K-th of N shares; N processes with the same `out` finish a store together.
    """
    codec = load_codec(folder).to(device or "cpu")
    options: dict[str, Any] = {"report": report, "start": start, "stop": stop, "batch": batch}
    return encode_world(codec, digest, source, out, every=every, part=part, **options)


def encode_world(
    codec: WeatherCodec,
    digest: str,
    world: str | Path,
    out: Path,
    *,
    report: Callable[[int, int], None] = lambda done, total: None,
    start: str | None = None,
    stop: str | None = None,
    batch: int = 20,
    every: int | None = None,
    part: str = "1/1",
) -> Path:
    """Encode every finished chunk of a store; goes on from where an earlier call stopped.

    Chunks with NaN that the codec does not expect are skipped: a simulation may still write them. Every process of
    several (`part`) writes chunks of its own, so that they need no lock.

    Raises:
        ValueError: `out` holds other latents, nothing in the interval, or `part` is no share.
    """
    share, shares = _share(part)
    reader = open_states(world, codec.channels, every)
    limits = [str(np.datetime64(int(h), "h")) for h in reader.hours[[0, -1]] + [0, 1]]
    begin, end = reader.indices(start or limits[0], stop or limits[1])
    group = _open(reader, codec, digest, out)
    chunks = range(begin // reader.chunk, -(-end // reader.chunk))[share::shares]
    finished = np.asarray(group["done"])
    for count, number in enumerate(chunks):
        where = slice(number * reader.chunk, (number + 1) * reader.chunk)
        if not finished[number] and _complete(codec, states := reader.read(where)):
            latent = _encode(codec, states, batch)
            group["latent"][where] = latent.numpy()
            if "moments" in group:
                group["moments"][number] = _moments(latent)
            group["done"][number : number + 1] = 1
        report(count + 1, len(chunks))
    return out


def _share(part: str) -> tuple[int, int]:
    """Return (K - 1, N) of "K/N"."""
    number, _, total = part.partition("/")
    if not (number.isdigit() and total.isdigit() and 1 <= int(number) <= int(total)):
        raise ValueError(f"part must be K/N with 1 <= K <= N, for example 1/4; got {part!r}")
    return int(number) - 1, int(total)


def _complete(codec: WeatherCodec, states: Tensor) -> bool:
    """Return whether states [N, C, H, W] hold NaN only where the codec expects it."""
    needed = [i for i, c in enumerate(codec.channels) if c.code not in codec.missing]
    return bool(torch.isfinite(states if len(needed) == states.shape[1] else states[:, needed]).all())


@torch.no_grad()
def _encode(codec: WeatherCodec, states: Tensor, batch: int) -> Tensor:
    device = codec.latent_mean.device
    return torch.cat([codec.encode(part.to(device)).cpu() for part in states.split(batch)]).half()


def _moments(latent: Tensor) -> np.ndarray:
    """Return the means of value and square per channel, and the number of states, [3, C] float64."""
    x = latent.double()
    count = torch.full((x.shape[1],), float(len(x)), dtype=torch.float64)
    return torch.stack([x.mean((0, 2, 3)), x.square().mean((0, 2, 3)), count]).numpy()


def _open(reader: Any, codec: WeatherCodec, digest: str, out: Path) -> Any:
    import os

    import zarr

    if not out.exists():
        partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
        _create(reader, codec, digest, partial)
        _publish(partial, out)
    group = zarr.open_group(out, mode="r+")
    if group.attrs["codec_sha256"] != digest:
        raise ValueError(f"{out} holds latents of another codec; choose another file or remove it")
    if not np.array_equal(np.asarray(group["time"]), reader.hours):
        raise ValueError(f"{out} holds latents of another world; choose another file or remove it")
    return group


def _create(reader: Any, codec: WeatherCodec, digest: str, path: Path) -> None:
    """Write an empty store."""
    import zarr

    group = zarr.open_group(path, mode="w")
    shape, count, chunk = codec.latent_shape, len(reader.hours), reader.chunk
    layout: dict[str, Any] = {"dtype": "float16", "fill_value": np.nan, "compressors": None}
    group.create_array("latent", shape=(count, *shape), chunks=(chunk, *shape), **layout)
    pieces = -(-count // chunk)
    group.create_array("done", shape=(pieces,), chunks=(1,), dtype="int8", fill_value=0)
    group.create_array("moments", shape=(pieces, 3, shape[0]), chunks=(1, 3, shape[0]), dtype="float64", fill_value=0)
    hours = group.create_array("time", shape=(count,), dtype="int64")
    hours[:] = reader.hours
    group.attrs.update({"codec_sha256": digest, "segments": list(reader.segments)})


def _publish(partial: Path, out: Path) -> None:
    """Give a store its name, unless another process that shares the work was first."""
    import shutil

    try:
        partial.rename(out)
    except OSError:
        if not out.exists():
            raise
        shutil.rmtree(partial)


class LatentStore:
    """Random access to encoded trajectories, in memory or from disk.

    Args:
        path: a store written by `encode_world`.
        begin, end: the half-open calendar interval to use.
        in_memory: whether to load the interval (float16); "auto" does if it takes a quarter of the free memory at most.

    Attributes:
        hours: valid times, int64 hours since 1970-01-01 [N].
        latent: [N, C, h, w] float16, a tensor or something that is indexed like one.
        spacing: hours between neighbouring states.

    Raises:
        ValueError: the interval holds no latents.
    """

    def __init__(self, path: str | Path, begin: str, end: str, *, in_memory: bool | Literal["auto"] = "auto") -> None:
        """Open the store and load the interval."""
        import zarr

        group: Any = zarr.open_group(str(path), mode="r")
        hours = np.asarray(group["time"], dtype=np.int64)
        limits = [np.datetime64(t, "h").astype(np.int64) for t in (begin, end)]
        first, stop = (int(i) for i in np.searchsorted(hours, limits))
        if stop <= first:
            raise ValueError(f"{path} has no latents in [{begin}, {end})")
        self.codec_hash = str(group.attrs["codec_sha256"])
        self.hours = hours[first:stop]
        self.spacing = int(np.diff(self.hours).min()) if stop - first > 1 else 0
        edges = [int(s["first"]) for s in group.attrs["segments"]] or [0]
        self.segment = np.searchsorted(edges, np.arange(first, stop), side="right")
        self._moments = np.asarray(group["moments"]) if "moments" in group else None
        self._load(group, first, stop, in_memory)

    def _load(self, group: Any, first: int, stop: int, in_memory: bool | str) -> None:
        """Set `latent`, and which states were encoded."""
        array = group["latent"]
        if in_memory == "auto":
            import psutil

            size = (stop - first) * int(np.prod(array.shape[1:])) * array.dtype.itemsize
            in_memory = size <= MEMORY_SHARE * psutil.virtual_memory().available
        self.latent: Any
        if in_memory:
            self.latent = torch.from_numpy(np.asarray(array[first:stop]))
            self.encoded = torch.isfinite(self.latent[:, 0, 0, 0].float()).numpy()
        else:
            self.latent = ChunkedTensor(array, first, stop)
            self.encoded = np.asarray(group["done"])[np.arange(first, stop) // array.chunks[0]] == 1

    def starts(self, frames: int, step_hours: int | None = None) -> np.ndarray:
        """Return the indices whose window of 1 + `frames` states, `step_hours` apart, is complete in one segment.

        Windows are found by their times, not by their place in the store: a gap shifts nothing.
        """
        index = np.arange(len(self.hours))
        good = self.encoded.copy()
        for k in range(1, frames + 1):
            later = self.after(index, k * (step_hours or self.spacing))
            found = later >= 0
            good &= found & self.encoded[later] & (self.segment == self.segment[later])
        return np.flatnonzero(good)

    def after(self, index: np.ndarray, hours: int) -> np.ndarray:
        """Return the indices of the states `hours` later, -1 where there is none."""
        wanted = self.hours[index] + hours
        later = np.minimum(np.searchsorted(self.hours, wanted), len(self.hours) - 1)
        return np.where(self.hours[later] == wanted, later, -1)

    def windows(self, index: np.ndarray, frames: int, step_hours: int | None = None) -> Tensor:
        """Return the windows [B, 1 + frames, C, h, w] float32 that start at indices from `starts`."""
        step = step_hours or self.spacing
        span = np.stack([self.after(index, k * step) for k in range(frames + 1)], axis=1)
        return self.latent[torch.from_numpy(span)].float()

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation per channel [C] over all that is encoded, measured while encoding.

        Raises:
            ValueError: the store is of an older version that has no moments, or empty.
        """
        if self._moments is None or not self._moments[:, 2].any():
            raise ValueError("this store of latents has no moments; encode it again")
        mean, square, count = self._moments.transpose(1, 0, 2)
        share = count / count.sum(0)
        mean = (share * mean).sum(0)
        std = np.sqrt(np.maximum((share * square).sum(0) - mean**2, 0.0))
        return torch.from_numpy(mean).float(), torch.from_numpy(std).float()
