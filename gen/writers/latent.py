"""Latent forecasts: a Zarr store of the latent states, useful only with the codec that made them.

The array `latent` has the axes (member, initialisation, lead, channel, row, column); the attributes carry the codec's
hash, the channels and the grid of the decoded fields. Decoding with another codec is refused.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gen.data.variables import Channel, parse_channel
from gen.grid import LatLonGrid
from gen.writers.spec import LAYOUTS, FileSpec, WriterError

__all__ = ["CODEC_HASH", "LatentFile", "latent_attributes", "open_latent"]

CODEC_HASH = "codec_hash"


@dataclass(frozen=True)
class LatentFile:
    """An opened latent forecast; `values(init, members, leads)` reads a part of it."""

    path: Path
    channels: tuple[Channel, ...]
    grid: LatLonGrid
    members: int
    inits: NDArray[np.datetime64]
    leads: NDArray[np.timedelta64]
    attrs: dict[str, str]

    def values(self, init: int, members: slice, leads: slice) -> NDArray[np.float32]:
        """Return latents [members, leads, channels, rows, columns] of one initialisation."""
        import zarr

        array: Any = zarr.open_array(str(self.path), path="latent", mode="r")
        lead_first = LAYOUTS[self.attrs["layout"]].lead_first
        return np.asarray(array[members, leads, init] if lead_first else array[members, init, leads], np.float32)


def latent_attributes(spec: FileSpec) -> dict[str, str]:
    """Return the attributes that let a latent file be decoded.

    Raises:
        WriterError: the attribute `codec_hash` is missing.
    """
    if not spec.attrs.get(CODEC_HASH):
        raise WriterError(f"a latent file needs the attribute {CODEC_HASH}; put the codec's hash into the attributes")
    return {
        "grid": json.dumps(spec.grid.to_dict()),
        "layout": spec.layout,
    }


def open_latent(path: Path | str, codec_hash: str) -> LatentFile:
    """Open a latent forecast for decoding with the codec `codec_hash`.

    Raises:
        WriterError: not a latent forecast, or made by another codec.
    """
    import zarr

    path = Path(path)
    if not (path / "latent" / "zarr.json").exists():
        raise WriterError(f"{path}: not a latent forecast; write one with --format latent")
    root: Any = zarr.open_group(str(path), mode="r")
    attrs = {key: str(value) for key, value in root.attrs.items()}
    if attrs.get(CODEC_HASH) != codec_hash:
        raise WriterError(
            f"{path}: made with codec {attrs.get(CODEC_HASH, 'unknown')[:12]}, this one is {codec_hash[:12]}; "
            "decode it with the model that wrote it"
        )
    layout = LAYOUTS[attrs["layout"]]
    return LatentFile(
        path=path,
        channels=tuple(parse_channel(code) for code in attrs["channels"].split()),
        grid=LatLonGrid.from_dict(json.loads(attrs["grid"])),
        members=root[layout.member].shape[0],
        inits=root[layout.init][...].astype("datetime64[h]"),
        leads=root[layout.lead][...].astype("timedelta64[h]"),
        attrs=attrs,
    )
