"""What a person may ask of a forecast, checked when it is made."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["ForecastRequest", "parse_duration", "parse_inits"]

import numpy as np

from gen.grid import Region
from gen.writers.packing import Compress
from gen.writers.spec import LayoutName

DURATION = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*(h|d|hours?|days?)?\s*$")
COMPACT = re.compile(r"(T\d{2})(\d{2})$")  # 0600 for 06:00
DATE = re.compile(r"^\d{4}-\d{2}-\d{2}([T ]\d{2}(:?\d{2})?)?Z?$")


def parse_duration(text: str, name: str = "duration") -> int:
    """Return whole hours of "10d", "240h" or "240"; raises ValueError with the rule."""
    match = DURATION.match(str(text))
    if match is None:
        raise ValueError(f'{name} must look like "10d" or "240h"; got {text!r}')
    hours = float(match[1]) * (24 if (match[2] or "h").startswith("d") else 1)
    if hours != int(hours) or hours <= 0:
        raise ValueError(f"{name} must be a positive whole number of hours; got {text!r}")
    return int(hours)


def parse_date(text: str) -> np.datetime64:
    """Return a time to the hour of "2024-01-01", "2024-01-01T06" or "2024-01-01 06:00"; raises ValueError."""
    plain = text.strip()
    if not DATE.match(plain):
        raise ValueError(f'init must be a date like 2024-01-01 or 2024-01-01T06; got "{text}"')
    try:
        moment = np.datetime64(COMPACT.sub(r"\1:\2", plain.rstrip("Z").replace(" ", "T")), "m")
    except ValueError:
        raise ValueError(f'init "{text}" is not a date of the calendar') from None
    hour = moment.astype("datetime64[h]")
    if hour != moment:
        raise ValueError(f'init must be a whole hour; got "{text}"')
    return hour


def parse_inits(texts: Sequence[str]) -> np.ndarray:
    """Return the sorted start times of dates and ranges "A..B/STEP" (both ends included, default step one day)."""
    moments: list[np.datetime64] = []
    for text in texts:
        if ".." not in text:
            moments.append(parse_date(text))
            continue
        first, _, rest = text.partition("..")
        last, _, step = rest.partition("/")
        begin, end, stride = parse_date(first), parse_date(last), parse_duration(step or "1d", "the step of init")
        if end < begin:
            raise ValueError(f'init range "{text}" ends before it begins')
        moments += list(np.arange(begin, end + np.timedelta64(1, "h"), np.timedelta64(stride, "h")))
    if not moments:
        raise ValueError("init is missing; give --init 2024-01-01")
    return np.unique(np.array(moments, dtype="datetime64[h]"))


@dataclass(frozen=True)
class ForecastRequest:
    """An ensemble forecast.

    Args:
        init: dates, or ranges "A..B/STEP".
        members: ensemble size. lead: length ("10d"). step: time between written frames (default: the model's).
        variables: WeatherBench names or codes ("z500"); levels: hPa; region: "S,N,W,E".
        sampler, steps: default: the model's. seed: of the noise.
        device: default: an accelerator if there is one. dtype: "auto", "float32" or "bfloat16".
        source: analysis to start from; "demo" is the archive of the model. model: folder or "demo".
        out: file to write. format: netcdf, zarr or latent. layout: weatherbench, cf or earth2studio.
        resume: finish a stopped run. batch: members per block, "auto", or None for the model's default.
        plot: draw a quick-look figure. compress: "fast" (lossless), "small" (rounded) or "none".
        compile: torch.compile the network (agrees to rounding; pays from some hundred evaluations on).
        parity: sample exactly as the original LaDCast does (see `forecast.parity`); the seed has no effect then.
    """

    init: tuple[str, ...]
    members: int = 8
    lead: str = "10d"
    step: str | None = None
    variables: tuple[str, ...] = ()
    levels: tuple[int, ...] = ()
    region: str | None = None
    sampler: str | None = None
    steps: int | None = None
    seed: int = 0
    device: str | None = None
    dtype: str = "auto"
    source: str = "demo"
    model: str = "demo"
    out: Path | None = None
    format: str = "netcdf"
    layout: LayoutName = "weatherbench"
    resume: bool = False
    batch: int | str | None = None
    plot: bool = True
    compress: Compress = "fast"
    compile: bool = False
    parity: bool = False

    def __post_init__(self) -> None:
        """Check what can be checked without the model."""
        parse_inits(self.init)
        for name, least in (("members", 1), ("steps", 1), ("seed", 0), ("batch", 1)):
            value = getattr(self, name)
            if isinstance(value, int) and value < least:
                raise ValueError(f"{name} must be at least {least}; got {value}")
        if self.region is not None:
            Region.parse(self.region)
        hours = self.lead_hours
        if self.step and hours % parse_duration(self.step, "step"):
            raise ValueError(f"lead {self.lead} is not a multiple of step {self.step}")
        choices = {
            "format": ("netcdf", "zarr", "latent"),
            "layout": ("weatherbench", "cf", "earth2studio"),
            "dtype": ("auto", "float32", "bfloat16"),
            "compress": ("fast", "small", "none"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}; got {getattr(self, name)!r}")
        if isinstance(self.batch, str) and self.batch != "auto":
            raise ValueError(f'batch must be a positive number or "auto"; got {self.batch!r}')

    @property
    def inits(self) -> np.ndarray:
        """Return the start times, datetime64[h]."""
        return parse_inits(self.init)

    @property
    def lead_hours(self) -> int:
        """Return the length in hours."""
        return parse_duration(self.lead, "lead")

    @property
    def path(self) -> Path:
        """Return the file to write."""
        if self.out is not None:
            return Path(self.out)
        first = str(self.inits[0]).replace("-", "").replace("T", "")
        return Path(f"forecast_{first}.{'nc' if self.format == 'netcdf' else 'zarr'}")
