"""What a person may ask of a downscaling run, checked when it is made."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

__all__ = ["DownscalingRequest"]

import numpy as np

from downscaling.conserve import Mode
from downscaling.regions import region
from downscaling.transfer import Align
from gen.grid import Region
from gen.writers.packing import Compress

SUFFIXES = {"netcdf": ".nc", "zarr": ".zarr", "geotiff": ".tif"}
LARGEST_FACTOR = 64.0


@dataclass(frozen=True)
class DownscalingRequest:
    """An ensemble of fine rain for every time of a coarse input.

    Args:
        input: file, store or folder of coarse rain (`downscaling.sources.opening`), a forecast of ours included; the
            model's own sample by default.
        members: ensemble size; by default eight, or one for each member of the input. More members than the input has
            must be a multiple of its number.
        factor: coarse over fine spacing, whole or not; 2.5 by default, if the model was trained on it.
        spacing: of the fine grid instead, degrees or (map planes) metres.
        grid: NetCDF, Zarr or GeoTIFF file on the wanted fine grid instead.
        region: name of a RainShift region, or "S,N,W,E" in degrees.
        times: ISO dates (all times of a day), times, or ranges "A..B".
        conserve: "input" keeps the coarse amounts to rounding, as the model's training pairs do; "coarse" those that
            the model expects instead, for one trained on inputs that disagree with their fine rain; "none" neither.
        sampler, steps: default: the model's. seed: of the noise.
        half_life: hours after which the correlation of the noise has halved; 0 draws every time by itself.
        align: "none", "qm" (quantile mapping of the input to the training rates) or "auto" (where they differ clearly).
        variable, units, interval: name, units and interval in hours of the rain where the file does not say.
        orography: elevation or surface geopotential, NetCDF, Zarr or GeoTIFF, for a model that was trained with it.
        land_mask: share of land, likewise; by default land is where the orography is above one metre.
        model: folder or packaged name. out: file to write. format: netcdf, zarr or geotiff.
        device: default: an accelerator if there is one. dtype: "auto", "float32" or "bfloat16".
        batch: members per block. resume: finish a stopped run. plot: draw a quick-look figure.
        compress: "fast" (lossless), "small" (rounded) or "none".

    Raises:
        ValueError: a value outside its range, or two ways of saying the fine grid.
    """

    input: Path | None = None
    members: int | None = None
    factor: float | None = None
    spacing: float | None = None
    grid: Path | None = None
    region: str | None = None
    times: tuple[str, ...] = ()
    conserve: Mode = "input"
    sampler: str | None = None
    steps: int | None = None
    seed: int = 0
    half_life: float = 2.0
    align: Align = "none"
    variable: str | None = None
    units: str | None = None
    interval: float | None = None
    orography: Path | None = None
    land_mask: Path | None = None
    model: str = "downscaling-demo"
    out: Path | None = None
    format: str | None = None
    device: str | None = None
    dtype: str = "auto"
    batch: int | None = None
    resume: bool = False
    plot: bool = True
    compress: Compress = "fast"

    def __post_init__(self) -> None:
        """Check what can be checked without files; the format follows the name of the file."""
        for name, least in (("members", 1), ("steps", 1), ("seed", 0), ("batch", 1), ("half_life", 0)):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= least):
                raise ValueError(f"{name} must be at least {least}; got {value}")
        if self.factor is not None and not 1 <= self.factor <= LARGEST_FACTOR:
            raise ValueError(f"factor must be between 1 and {LARGEST_FACTOR:g}; got {self.factor:g}")
        for name in ("spacing", "interval"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be positive; got {value:g}")
        given = [name for name in ("factor", "spacing", "grid") if getattr(self, name) is not None]
        if len(given) > 1 or (self.grid is not None and self.region is not None):
            raise ValueError(f"give the fine grid once: {' or '.join([*given, *(['region'] if self.region else [])])}")
        if self.land_mask is not None and self.orography is None:
            raise ValueError("a land mask goes with an orography: give --orography as well")
        if self.format is None:
            found = [kind for kind, end in SUFFIXES.items() if Path(self.out or "x.nc").suffix.startswith(end)]
            object.__setattr__(self, "format", found[0] if found else "netcdf")
        choices = {
            "format": tuple(SUFFIXES),
            "conserve": get_args(Mode),
            "align": ("none", "qm", "auto"),
            "dtype": ("auto", "float32", "bfloat16"),
            "compress": ("fast", "small", "none"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}; got {getattr(self, name)!r}")
        _ = self.box, [parse_time(text) for text in self.times]

    @property
    def box(self) -> Region | None:
        """Return the region."""
        if self.region is None:
            return None
        return Region.parse(self.region) if "," in self.region else region(self.region)

    @property
    def path(self) -> Path:
        """Return the file to write."""
        return Path(self.out) if self.out is not None else Path(f"fine_rain{SUFFIXES[str(self.format)]}")

    def chosen(self, ends: np.ndarray) -> np.ndarray:
        """Return the places of the wanted times among `ends`, datetime64[m].

        Raises:
            ValueError: a wanted time is not there.
        """
        if not self.times:
            return np.arange(ends.size)
        wanted = np.zeros(ends.size, bool)
        for text in self.times:
            first, last = parse_time(text)
            found = (ends >= first) & (ends <= last)
            if not found.any():
                raise ValueError(f"the input has no time {text}; it has {ends[0]} to {ends[-1]}")
            wanted |= found
        return np.flatnonzero(wanted)


def parse_time(text: str) -> tuple[np.datetime64, np.datetime64]:
    """Return first and last minute of a day, a time or a range "A..B"; raises ValueError."""
    parts = text.split("..")
    try:
        moments = [np.datetime64(p.strip().rstrip("Z").replace(" ", "T")) for p in parts]
        if len(parts) > 2 or any(np.isnat(m) for m in moments):
            raise ValueError
    except ValueError:
        raise ValueError(f'times must look like 2024-01-01, 2024-01-01T06:30 or A..B; got "{text}"') from None
    first, last = (m.astype("datetime64[m]") for m in (moments[0], moments[-1]))
    if np.datetime_data(moments[-1].dtype)[0] in ("Y", "M", "D"):
        last = (moments[-1] + 1).astype("datetime64[m]") - np.timedelta64(1, "m")
    if last < first:
        raise ValueError(f'the range of times "{text}" ends before it begins')
    return first, last
