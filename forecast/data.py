"""The analysis a forecast starts from: read, complete, encoded."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

__all__ = ["Analysis", "open_analysis"]

import numpy as np
import torch
from torch import Tensor

from autoencoders.weather import WeatherCodec
from gen.data.dataset_source import nearest
from gen.data.sources import Source, SourceError, open_source
from gen.data.variables import Channel
from gen.fields import Field

log = logging.getLogger(__name__)

ARCHIVE = "initial_states.nc"
UNOBSERVED = {"tp06": 0.0}  # rain of the hours before the start: no state variable, and few analyses have it


def open_analysis(source: str, model: Path, codec: WeatherCodec) -> Analysis:
    """Open "demo" (the archive in the model folder) or anything `gen.data.sources.open_source` knows."""
    if source != "demo":
        return Analysis(open_source(source, fill=UNOBSERVED, orography=_orography(codec)), codec)
    archive = model / ARCHIVE
    if not archive.exists():
        raise SourceError(f"{model} ships no initial states; give --source FILE")
    return Analysis(open_source(str(archive)), codec, "initial states shipped with the model (simulated)")


def _orography(codec: WeatherCodec) -> Field | None:
    """Return the geopotential at the surface that derived surface fields refer to."""
    if codec.orography is None:
        return None
    return Field(codec.orography[None].cpu(), (Channel("geopotential_at_surface", None),), codec.grid)


class Analysis:
    """Start states on the codec's grid.

    Args:
        source: where the fields come from.
        codec: what they are encoded with; its channels and grid are asked of the source.
        description: what the file says of the source (default: its name).
    """

    def __init__(self, source: Source, codec: WeatherCodec, description: str | None = None) -> None:
        """Remember the parts; nothing is read yet."""
        self.source, self.codec = source, codec
        self.description = description or source.name

    @property
    def simulated(self) -> bool:
        """Return whether the source says that its fields are simulated."""
        return self.source.synthetic

    @property
    def notes(self) -> list[str]:
        """Return what was derived or approximated."""
        return list(self.source.notes)

    def check(self, inits: np.ndarray) -> None:
        """Raise SourceError unless every start time has data and no channel is missing; names what there is.

        The first start is read, so that unusable data are found, and `notes` is complete, before anything is computed.
        """
        times = self.source.times().astype("datetime64[h]")
        complete = not self.source.missing(self.codec.channels)  # else reading says what is missing and why
        for init in inits:
            if complete and init not in times:
                raise SourceError(f"{self.description} has no data for {init}; {nearest(times, init)}")
        self.source.read(inits[0], self.codec.channels, grid=self.codec.grid)

    @torch.no_grad()
    def encode(self, init: np.datetime64, members: Sequence[int], device: torch.device) -> Tensor:
        """Return latents [members, C, h, w] of the start states; an ensemble analysis gives each member its own."""
        count = max(1, self.source.members)
        known: dict[int, Tensor] = {}
        for member in sorted({m % count for m in members}):
            field = self.source.read(init, self.codec.channels, grid=self.codec.grid, member=member)
            known[member] = self.codec.encode(field.values[None].float().to(device))[0]
        return torch.stack([known[m % count] for m in members])
