"""What is normal for the time of the year and of the day.

The daily climatology is the mean of each channel, fitted for each synoptic hour by least squares with a mean and the
first harmonics of the year,

    x(t) = a_0 + sum_k (a_k cos 2 pi k p + b_k sin 2 pi k p),   p = share of the year gone by,

which smooths over days of the year (Narapusetty et al. 2009, doi 10.1175/2009JCLI2944.1) and needs one pass over the
data. `climatology_members` is the probabilistic counterpart: states of other years at the same calendar day and hour.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["DailyClimatology", "build_climatology", "climatology_members", "run_climatology"]

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gen.data.sources import Source, SourceError, open_source
from gen.data.variables import Channel, parse_channel
from gen.fields import Field
from gen.grid import LatLonGrid
from gen.progress import SILENT, Bar, Reporter

log = logging.getLogger(__name__)

HARMONICS = 4
KIND = "daily climatology"
DAY = np.timedelta64(24, "h")


@dataclass(frozen=True, eq=False)
class DailyClimatology:
    """Mean states by synoptic hour and day of the year.

    Args:
        coefficients: [hour, 1 + 2 K, C, H, W]: mean, then cosine and sine of each harmonic, in SI units.
        hours: synoptic hours, UTC.
        channels: the channels; `grid`: their cells.
        attrs: what the data are.
    """

    coefficients: NDArray[np.float32]
    hours: tuple[int, ...]
    channels: tuple[Channel, ...]
    grid: LatLonGrid
    attrs: dict[str, str]

    def mean(self, time: np.datetime64, channels: Sequence[Channel] | None = None) -> Field:
        """Return the mean state [C, H, W] at a valid time.

        Raises:
            ValueError: when the hour of the day or a channel is not in the climatology.
        """
        time = time.astype("datetime64[h]")
        hour = int(time.astype(np.int64)) % 24
        if hour not in self.hours:
            raise ValueError(f"the climatology has no {hour:02d} UTC; it has {', '.join(map(str, self.hours))} UTC")
        basis = _basis(np.array([time]), (self.coefficients.shape[1] - 1) // 2)[0]
        values = np.tensordot(basis, self.coefficients[self.hours.index(hour)].astype(np.float64), axes=1)
        field = Field(torch.from_numpy(values.astype(np.float32)), self.channels, self.grid)
        return field if channels is None else field.select(channels)

    def save(self, path: Path) -> None:
        """Write a NetCDF file; it appears under its name when it is complete."""
        import xarray as xr

        dataset = Field(torch.from_numpy(self.coefficients), self.channels, self.grid, ("hour", "harmonic")).to_xarray()
        dataset = dataset.assign_coords(
            hour=("hour", np.array(self.hours), {"long_name": "synoptic hour, UTC", "units": "hours"}),
            harmonic=("harmonic", np.arange(self.coefficients.shape[1]), {"long_name": _harmonic_text()}),
        )
        dataset.attrs = {**self.attrs, "kind": KIND, "channels": json.dumps([c.code for c in self.channels])}
        assert isinstance(dataset, xr.Dataset)
        part = path.with_name(path.name + ".part")
        dataset.to_netcdf(part, encoding={n: {"zlib": True, "complevel": 4} for n in dataset.data_vars})
        part.replace(path)

    @classmethod
    def open(cls, path: Path) -> DailyClimatology:
        """Read a file written by `save`; raises ValueError when it is something else."""
        import xarray as xr

        with xr.open_dataset(path, decode_timedelta=False) as dataset:
            if dataset.attrs.get("kind") != KIND:
                raise ValueError(f"{path} is no daily climatology; make one with `gen data climatology`")
            channels = tuple(parse_channel(code) for code in json.loads(dataset.attrs["channels"]))
            field = Field.from_xarray(dataset, channels)
            hours = tuple(int(h) for h in dataset["hour"])
            attrs = {k: str(v) for k, v in dataset.attrs.items() if k not in ("kind", "channels")}
        order = (field.dims.index("hour"), field.dims.index("harmonic"), 2, 3, 4)
        return cls(field.values.permute(order).numpy(), hours, channels, field.grid, attrs)


def build_climatology(
    source: Source, channels: Sequence[Channel], times: NDArray[np.datetime64], bar: Bar | None = None
) -> DailyClimatology:
    """Fit the daily climatology to the states of `source` at `times`, one after another.

    Raises:
        SourceError: when a state cannot be read, or there are no times.
    """
    if not len(times):
        raise SourceError(f"{source.name} has no times in the interval; it covers {_span(source.times())}")
    of_day = times.astype("datetime64[h]").astype(np.int64) % 24
    hours = tuple(int(h) for h in np.unique(of_day))
    harmonics = min(_affordable(times[of_day == h]) for h in hours)
    if harmonics < HARMONICS:
        log.warning("less than a year of data: the climatology has %d of %d harmonics", harmonics, HARMONICS)
    grid, width = source.grid, 1 + 2 * harmonics
    normal = np.zeros((len(hours), width, width))
    moment = np.zeros((len(hours), width, len(channels), *grid.shape))
    bar = Bar(len(times)) if bar is None else bar
    for time, hour, basis in zip(times, of_day, _basis(times, harmonics), strict=True):
        k = hours.index(int(hour))
        state = source.read(time, channels).values.numpy()
        normal[k] += np.outer(basis, basis)
        for j, weight in enumerate(basis):
            moment[k, j] += weight * state
        bar.advance(1, str(time))
    solved = np.linalg.solve(normal, moment.reshape(len(hours), width, -1)).reshape(moment.shape)
    attrs = {"source": source.name, "period": _span(times), "states": str(len(times))}
    attrs |= {"synthetic": "true"} if source.synthetic else {}
    return DailyClimatology(solved.astype(np.float32), hours, tuple(channels), grid, attrs)


def run_climatology(
    source: str | Path,
    out: Path,
    start: str | None = None,
    stop: str | None = None,
    variables: Sequence[str] | None = None,
    reporter: Reporter = SILENT,
) -> Path:
    """Make the daily climatology of a source (the command `gen data climatology`).

    Args:
        source: see `gen.data.sources.open_source`.
        out: NetCDF file to write.
        start: first time used (default: the first).
        stop: last time used; a date without hour counts whole (default: the last).
        variables: channel codes or variable names (default: all but static ones).
        reporter: where progress goes.
    """
    opened = open_source(source)
    have = [c for c in opened.channels() if c.variable.kind != "static"]
    times = opened.times()
    if start:
        times = times[times >= _date(start)]
    if stop:
        times = times[times < _date(stop) + (DAY if "T" not in stop else np.timedelta64(1, "h"))]
    with reporter.bar("climatology", len(times), "states") as bar:
        result = build_climatology(opened, _chosen(variables, have), times, bar)
    result.save(Path(out))
    reporter.say(f"{out}: mean of {len(times)} states, {result.attrs['period']}")
    return Path(out)


def climatology_members(
    source: Any,
    time: np.datetime64,
    channels: Sequence[Channel],
    n: int,
    window_days: int = 10,
    years: Sequence[int] | None = None,
    grid: LatLonGrid | None = None,
) -> Tensor:
    """Return `n` states [n, C, H, W] of other years within `window_days` of the calendar day, at the same hour.

    The states are evenly spread over all candidates; the choice depends on nothing but the arguments, and the year of
    `time` is never among them.

    Raises:
        SourceError: when the years hold fewer than `n` such states.
    """
    time = time.astype("datetime64[h]")
    candidates = _same_season(source.times(), time, window_days, years)
    if len(candidates) < n:
        raise SourceError(
            f"{source.name} has {len(candidates)} states within {window_days} days of {str(time)[5:]} UTC in other "
            f"years; {n} are asked for: widen the window or ask for fewer"
        )
    chosen = candidates[np.linspace(0, len(candidates) - 1, n).round().astype(int)]
    if hasattr(source, "reserve"):
        source.reserve(channels, n)
    return torch.stack([source.read(t, channels, grid).values for t in chosen])


def _same_season(
    times: NDArray[np.datetime64], time: np.datetime64, window_days: int, years: Sequence[int] | None
) -> NDArray[np.datetime64]:
    """Return the times of other years near the calendar day of `time`, at its hour of the day."""
    year_of = times.astype("datetime64[Y]").astype(int) + 1970
    own = int(time.astype("datetime64[Y]").astype(int)) + 1970
    allowed = set(year_of.tolist()) if years is None else set(years)
    since = time - time.astype("datetime64[Y]").astype("datetime64[h]")
    keep = np.zeros(len(times), bool)
    for year in range(int(year_of.min()) - 1, int(year_of.max()) + 2) if len(times) else ():
        anchor = np.datetime64(f"{year:04d}", "Y").astype("datetime64[h]") + since
        keep |= np.abs(times - anchor) <= window_days * DAY
    same_hour = (times - time) % DAY == np.timedelta64(0, "h")
    return times[keep & same_hour & np.isin(year_of, sorted(allowed - {own}))]


def _basis(times: NDArray[np.datetime64], harmonics: int) -> NDArray[np.float64]:
    """Return [time, 1 + 2 K]: one, then cosine and sine of each harmonic of the year."""
    year = times.astype("datetime64[Y]")
    begin, end = (y.astype("datetime64[h]").astype(np.int64) for y in (year, year + 1))
    phase = 2 * np.pi * (times.astype("datetime64[h]").astype(np.int64) - begin) / (end - begin)
    columns = [np.ones_like(phase)]
    for k in range(1, harmonics + 1):
        columns += [np.cos(k * phase), np.sin(k * phase)]
    return np.stack(columns, axis=-1)


def _affordable(times: NDArray[np.datetime64]) -> int:
    """Return how many harmonics the times can hold: all if they reach round the year, else none."""
    day = times.astype("datetime64[D]") - times.astype("datetime64[Y]").astype("datetime64[D]")
    filled = np.unique(np.concatenate([d := np.unique(day.astype(int)), d[:1] + 366]))
    return HARMONICS if filled.size > 4 * HARMONICS and np.diff(filled).max() <= 30 else 0


def _chosen(variables: Sequence[str] | None, have: Sequence[Channel]) -> tuple[Channel, ...]:
    """Return the channels that names and codes stand for."""
    if not variables:
        return tuple(have)
    named = [[c for c in have if c.name == text] or [parse_channel(text)] for text in variables]
    return tuple(dict.fromkeys(c for group in named for c in group))


def _date(text: str) -> np.datetime64:
    try:
        return np.datetime64(text, "h")
    except ValueError:
        raise ValueError(f"{text!r} is no date; write 2020-01-31 or 2020-01-31T06") from None


def _span(times: NDArray[np.datetime64]) -> str:
    return f"{times[0]} to {times[-1]}" if len(times) else "no time"


def _harmonic_text() -> str:
    return "mean, then cosine and sine of the harmonics of the year"
