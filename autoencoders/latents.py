"""Latents on disk: a world encoded once, with the statistics that the dynamics need.

The Zarr store holds `latent` [time, channel, y, x] (float16, unit variance), the time axis and the segments of its
world, and the SHA-256 of the codec: decoding with another codec is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["LatentStore", "encode_analyses", "encode_world"]

import numpy as np
import torch
from torch import Tensor

from autoencoders.store import load_codec
from autoencoders.weather import WeatherCodec
from gen.data.windows import WorldReader


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
) -> Path:
    """Encode a world (Zarr) with the codec of a model folder; `start` and `stop` select an interval of time."""
    codec = load_codec(folder).to(device or "cpu")
    return encode_world(codec, digest, source, out, report=report, start=start, stop=stop, batch=batch)


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
) -> Path:
    """Encode every finished chunk of a world; goes on from where an earlier call stopped. Chunks of NaN are skipped."""
    reader = WorldReader(world, codec.channels)
    limits = [str(np.datetime64(int(h), "h")) for h in reader.hours[[0, -1]] + [0, 1]]
    begin, end = reader.indices(start or limits[0], stop or limits[1])
    group = _open(reader, codec, digest, out)
    chunks = range(begin // reader.chunk, -(-end // reader.chunk))
    finished = np.asarray(group["done"])
    for count, number in enumerate(chunks):
        where = slice(number * reader.chunk, (number + 1) * reader.chunk)
        if not finished[number] and bool(torch.isfinite(states := reader.read(where)).all()):
            group["latent"][where] = _encode(codec, states, batch).numpy()
            group["done"][number : number + 1] = 1
        report(count + 1, len(chunks))
    return out


@torch.no_grad()
def _encode(codec: WeatherCodec, states: Tensor, batch: int) -> Tensor:
    device = codec.latent_mean.device
    return torch.cat([codec.encode(part.to(device)).cpu() for part in states.split(batch)]).half()


def _open(reader: WorldReader, codec: WeatherCodec, digest: str, out: Path) -> Any:
    import zarr

    if out.exists():
        group = zarr.open_group(out, mode="r+")
        if group.attrs["codec_sha256"] != digest:
            raise ValueError(f"{out} holds latents of another codec; choose another file or remove it")
        if not np.array_equal(np.asarray(group["time"]), reader.hours):
            raise ValueError(f"{out} holds latents of another world; choose another file or remove it")
        return group
    partial = out.with_name(f".{out.name}.partial")
    group = zarr.open_group(partial, mode="w")
    shape = codec.latent_shape
    count, chunk = len(reader.hours), reader.chunk
    group.create_array("latent", shape=(count, *shape), chunks=(chunk, *shape), dtype="float16", fill_value=np.nan)
    group.create_array("done", shape=(-(-count // chunk),), chunks=(1,), dtype="int8", fill_value=0)
    hours = group.create_array("time", shape=(count,), dtype="int64")
    hours[:] = reader.hours
    group.attrs.update({"codec_sha256": digest, "segments": list(reader.group.attrs.get("segments", []))})
    partial.replace(out)
    return zarr.open_group(out, mode="r+")


class LatentStore:
    """Random access to encoded trajectories, held in memory as float16.

    Args:
        path: a store written by `encode_world`.
        begin, end: the half-open calendar interval to hold.
    """

    def __init__(self, path: str | Path, begin: str, end: str) -> None:
        """Load the interval."""
        import zarr

        group: Any = zarr.open_group(str(path), mode="r")
        hours = np.asarray(group["time"], dtype=np.int64)
        limits = [np.datetime64(t, "h").astype(np.int64) for t in (begin, end)]
        first, stop = (int(i) for i in np.searchsorted(hours, limits))
        if stop <= first:
            raise ValueError(f"{path} has no latents in [{begin}, {end})")
        self.codec_hash = str(group.attrs["codec_sha256"])
        self.hours = hours[first:stop]
        self.latent = torch.from_numpy(np.asarray(group["latent"][first:stop]))
        edges = [int(s["first"]) for s in group.attrs["segments"]] or [0]
        self.segment = np.searchsorted(edges, np.arange(first, stop), side="right")

    def starts(self, frames: int) -> np.ndarray:
        """Return the indices i whose window i .. i + frames lies in one segment and is complete."""
        count = len(self.hours) - frames
        if count <= 0:
            return np.zeros(0, dtype=np.int64)
        same = self.segment[:count] == self.segment[frames:]
        finite = torch.isfinite(self.latent[:, 0, 0, 0].float()).numpy()
        whole = np.all([finite[k : k + count] for k in range(frames + 1)], axis=0)
        return np.flatnonzero(same & whole)
