"""Where fields come from: one protocol for files, folders and cloud stores.

A source is asked for channels at a time and gives a `Field` in SI units on the grid that is wanted. What it lacks it
says beforehand (`missing`) or in one line (`SourceError`); what it had to derive it lists (`notes`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

__all__ = ["Source", "SourceError", "open_source", "summary"]

import numpy as np

from gen.data.variables import Channel
from gen.fields import Field
from gen.grid import LatLonGrid


class SourceError(ValueError):
    """Say in one line why data cannot be had and what to do."""


@runtime_checkable
class Source(Protocol):
    """Analyses or simulated states."""

    name: str
    synthetic: bool
    members: int
    grid: LatLonGrid

    @property
    def notes(self) -> list[str]:
        """Return what was derived, interpolated, filled or approximated in what has been read so far."""
        ...

    def times(self) -> np.ndarray:
        """Return the valid times, datetime64[h], ascending."""
        ...

    def channels(self) -> tuple[Channel, ...]:
        """Return the channels that the source itself holds."""
        ...

    def missing(self, channels: Sequence[Channel]) -> tuple[Channel, ...]:
        """Return those of `channels` that can neither be read nor derived nor filled."""
        ...

    def read(
        self, time: np.datetime64, channels: Sequence[Channel], grid: LatLonGrid | None = None, member: int = 0
    ) -> Field:
        """Return one state [C, H, W], conservatively regridded when another grid is asked for."""
        ...


def open_source(spec: str | Path, *, fill: Mapping[str, float] | None = None, orography: Field | None = None) -> Source:
    """Open a path (Zarr, NetCDF, GRIB, or a folder of these) or a cloud store ("wb2", "arco-era5").

    Args:
        spec: what to open.
        fill: value in SI units, by channel code, for channels that the source cannot supply, such as
            `{"tp06": 0.0}`; nothing is filled silently.
        orography: field with the channel `zs` (geopotential at the surface, m2 s-2), used to derive surface pressure,
            2 m temperature and 10 m wind where a source has neither these nor an orography of its own.

    Raises:
        SourceError: when there is nothing to open or it cannot be used.
    """
    from gen.data.cloud import STORES, open_cloud
    from gen.data.files import open_path

    if str(spec) in STORES:
        return open_cloud(str(spec), fill=fill, orography=orography)
    if "://" in str(spec):
        raise SourceError(f"{spec}: only local paths and the stores {', '.join(STORES)} can be opened")
    return open_path(Path(spec).expanduser(), fill=fill, orography=orography)


def summary(channels: Sequence[Channel]) -> str:
    """Return channels as short text: upper-air variables grouped by their levels."""
    groups: dict[tuple[int, ...], list[str]] = {}
    for short in dict.fromkeys(c.variable.short for c in channels if c.level is not None):
        levels = tuple(sorted(c.level for c in channels if c.variable.short == short and c.level is not None))
        groups.setdefault(levels, []).append(short)
    parts = [f"{', '.join(names)} at {_levels_text(levels)} hPa" for levels, names in groups.items()]
    flat = [c.code for c in channels if c.level is None]
    return "; ".join([*parts, *([", ".join(flat)] if flat else [])]) or "nothing usable"


def _levels_text(levels: tuple[int, ...]) -> str:
    if len(levels) <= 8:
        return "/".join(map(str, levels))
    return f"{levels[0]}/{levels[1]}/.../{levels[-1]} ({len(levels)} levels)"
