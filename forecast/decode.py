"""Decode a latent forecast to fields, a block of members and lead times at a time.

A latent forecast holds everything the model drew, whatever channels were asked for when it was drawn. The codec runs in
the precision and on the blocks of members of the forecast, frame by frame as `forecast.task` does, so that fields
decoded later are those of a direct run up to float32 rounding.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

__all__ = ["decode_file"]

import numpy as np
import torch
from torch import Tensor

from autoencoders.store import load_codec
from autoencoders.weather import WeatherCodec
from forecast.channels import choose_channels
from gen.grid import LatLonGrid
from gen.provenance import config_hash
from gen.writers.latent import CODEC_HASH, LatentFile, open_latent
from gen.writers.spec import FileSpec, LayoutName, WriterError
from gen.writers.staged import StagedWriter

FRAMES_PER_PIECE = 32
WRITTEN_ANEW = ("Conventions", "request_fingerprint", "channels", "grid", "layout", CODEC_HASH)
Report = Callable[[int, int], None]


def decode_file(
    folder: Path,
    digest: str,
    source: Path,
    out: Path,
    *,
    report: Report = lambda done, total: None,
    variables: Sequence[str] = (),
    levels: Sequence[int] = (),
    format: str | None = None,
    layout: LayoutName | None = None,
    device: str | None = None,
) -> Path:
    """Decode the latent forecast `source` and return the path of the new file.

    Args:
        folder: model folder.
        digest: its SHA-256, which must be that of the model that made the latents.
        source: Zarr store written with `--format latent`.
        out: file to write; it appears under its name when it is complete.
        report: called with finished and all frames (one member at one lead time).
        variables: names or codes of the model (default: those asked for when the forecast was drawn).
        levels: pressure levels in hPa (default: all).
        format: "netcdf" or "zarr" (default: zarr for the ending .zarr, else netcdf).
        layout: names and dimensions (default: those asked for when the forecast was drawn).
        device: where the codec runs (default: the CPU).

    Raises:
        ValueError: latents of another model, no latent forecast, or something the model does not have.
    """
    latents = open_latent(source, digest)
    codec = load_codec(folder).to(torch.device(device or "cpu"))
    have = codec.channels if variables else latents.channels
    channels = choose_channels(have, variables, levels)
    spec = FileSpec(
        channels=channels,
        grid=latents.grid,
        members=latents.members,
        inits=latents.inits,
        leads=latents.leads,
        attrs=_attributes(latents),
        layout=layout or latents.attrs["layout"],  # type: ignore[arg-type]
    )
    kind: Any = format or ("zarr" if Path(out).suffix == ".zarr" else "netcdf")
    mark = config_hash({"from": str(Path(source).resolve()), "attrs": latents.attrs})
    size = int(latents.attrs.get("members_per_block", 8))
    decoder = _Decoder(codec, spec, latents.attrs.get("network_dtype", "float32"), size)
    total, done = spec.members * len(spec.inits) * len(spec.leads), 0
    with StagedWriter(out, spec, kind, mark) as writer:
        for init, members in _units(latents, size):
            for leads in _pieces(len(spec.leads), max(1, FRAMES_PER_PIECE // size)):
                writer.write(init, members, decoder(latents.values(init, members, leads)), leads)
                done += (members.stop - members.start) * (leads.stop - leads.start)
                report(done, total)
            writer.commit(init, members)
    return Path(out)


class _Decoder:
    """Turn latents [m, L, Cz, h, w] into values [m, L, C, H, W] of the channels and the region of a file."""

    def __init__(self, codec: WeatherCodec, spec: FileSpec, dtype: str, size: int) -> None:
        self.codec, self.device, self.size = codec, codec.latent_mean.device, size
        self.index = [codec.channels.index(c) for c in spec.channels]
        self.rows, self.columns = _place(spec.grid, codec.grid)
        self.dtype = torch.bfloat16 if dtype == "bfloat16" else torch.float32

    def __call__(self, latents: np.ndarray) -> np.ndarray:
        """Decode lead by lead; a short last block is padded, since the shape of a batch decides its rounding."""
        padding = [(0, self.size - len(latents))] + [(0, 0)] * (latents.ndim - 1)
        block = torch.from_numpy(np.pad(latents, padding, mode="edge"))
        fields = [self._decode(block[:, k].to(self.device))[: len(latents)] for k in range(block.shape[1])]
        return torch.stack(fields, dim=1).numpy()

    @torch.no_grad()
    def _decode(self, latent: Tensor) -> Tensor:
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            values = self.codec.decode(latent, self.index)
        return values[..., self.rows, :][..., self.columns].float().cpu()


def _place(part: LatLonGrid, whole: LatLonGrid) -> tuple[Tensor, Tensor]:
    """Return the rows and columns of `whole` that `part` consists of; longitudes may differ by full circles."""
    rows = np.abs(whole.latitude[None] - part.latitude[:, None]).argmin(1)
    apart = (whole.longitude[None] - part.longitude[:, None] + 180) % 360 - 180
    columns = np.abs(apart).argmin(1)
    found = np.abs(whole.latitude[rows] - part.latitude).max() + np.abs(apart).min(1).max()
    if found > 1e-4:
        raise WriterError("the grid of the latents is not that of the model; decode them with the model that made them")
    return torch.from_numpy(rows), torch.from_numpy(columns)


def _units(latents: LatentFile, size: int) -> Iterator[tuple[int, slice]]:
    """Yield (initialisation, members) in the order of the file, in the blocks in which they were drawn."""
    for init in range(len(latents.inits)):
        for members in _pieces(latents.members, size):
            yield init, members


def _pieces(count: int, size: int) -> Iterator[slice]:
    for first in range(0, count, size):
        yield slice(first, min(first + size, count))


def _attributes(latents: LatentFile) -> dict[str, str]:
    """Return the attributes of the latent file, with one line more in `history`."""
    kept = {key: value for key, value in latents.attrs.items() if key not in WRITTEN_ANEW}
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    kept["history"] = f"{kept.get('history', '')}\n{now} decoded from {latents.path.name} by gen-earth".strip()
    return kept
