"""`gen track`: a forecast file to tracks, strike probability, errors and a figure, one member in memory at a time."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

__all__ = ["Request", "track_file"]

import numpy as np
from numpy.typing import NDArray

from forecast.cyclones.criteria import choose_criteria, needed_channels
from forecast.cyclones.detect import Detector
from forecast.cyclones.errors import ErrorRow, matching, table, track_errors
from forecast.cyclones.output import (
    STRIKE_RADIUS_KM,
    errors_csv,
    geojson,
    strike_dataset,
    strike_probability,
    tracks_csv,
    write_all,
)
from forecast.cyclones.reference import Reference, choose_storm, read_reference
from forecast.cyclones.track import Track, follow, join
from gen.data.variables import Channel
from gen.metrics.stores import ForecastStore
from gen.progress import SILENT, Reporter
from gen.provenance import config_hash, provenance

BLOCK_BYTES = 128 * 1024 * 1024
LONGEST_STEP_HOURS = 12.0
FROM_REFERENCE = "reference"
START = r"([-+]?[\d.]+)\s*,\s*([-+]?[\d.]+)\s*,\s*(\d{4}-\d{2}-\d{2}(?:[T ]\d{2}(?::\d{2})?Z?)?)"
SUFFIXES = (".nc", ".zarr", ".csv", ".png")
Maps = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Request:
    """What to track.

    Args:
        file: forecast, NetCDF or Zarr, any layout.
        start: "LAT,LON,TIME" of a storm to follow, or "reference": where the reference is first; None detects storms.
        members: members to track (default: all).
        out: what the names of the files start with (default: the file's name).
        criteria: "tempest", "vitart" or "pressure"; thresholds: "NAME=VALUE" changes, see `choose_criteria`.
        reference: file of observed tracks; storm: its name or identifier (default: the only one that fits).
        radius_km: of the strike probability.
        init: start of the forecast in the file (default: the first).
        figure: whether a figure is drawn.
    """

    file: Path
    start: str | None = None
    members: tuple[int, ...] | None = None
    out: Path | None = None
    criteria: str = "tempest"
    thresholds: tuple[str, ...] = ()
    reference: Path | None = None
    storm: str | None = None
    radius_km: float = STRIKE_RADIUS_KM
    init: str | None = None
    figure: bool = True


def track_file(request: Request, reporter: Reporter = SILENT) -> list[Path]:
    """Find the tracks, write every file and return the paths.

    Files: PREFIX_tracks.csv, PREFIX_tracks.geojson, PREFIX_strike.nc, with a reference PREFIX_errors.csv, and
    PREFIX_tracks.png. Without storms the tables are empty and the map is zero.

    Raises:
        ValueError: not a forecast, no sea-level pressure or something else that the criteria need, a start or a
            reference that is not of the forecast's time; nothing is written.
    """
    job = _Job(request)
    with reporter.bar("tracking", len(job.members), "members") as bar:
        tracks = [track for member in job.members for track in job.member(member, bar.advance)]
    rows = job.errors(tracks)
    for line in job.summary(tracks, rows):
        reporter.say(line)
    written = write_all(job.writers(tracks, rows))
    for path in written:
        reporter.say(str(path))
    return written


class _Job:
    """A request that was checked against its file."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.criteria = choose_criteria(request.criteria, request.thresholds)
        if not 0 < request.radius_km <= 2000:
            raise ValueError(f"radius must be above 0 and at most 2000 km; got {request.radius_km:g}")
        if request.storm and not request.reference:
            raise ValueError("--storm names a storm of --reference FILE; no file is given")
        self.store = _open(request.file)
        self.init = _choose_init(self.store, request.init)
        self.hours = np.sort(self.store.leads.astype("timedelta64[h]").astype(np.int64)).astype(np.float64)
        _check_steps(self.hours, request.file)
        self.members = _choose_members(self.store, request.members)
        self.use = needed_channels(self.criteria, _there(request.file, self.store), steering=True)
        codes = {key: tuple(c.code for c in channels) for key, channels in self.use.items()}
        self.detector = Detector(self.store.grid, self.criteria, codes)
        self.reference, self.start = self._storm()

    def member(self, member: int, done: Callable[[float], None]) -> list[Track]:
        """Return the tracks of one member."""
        frames = self._frames(member)
        if self.start is None:
            tracks = join(((hour, self.detector.centres(maps)) for hour, maps in frames), self.criteria)
        else:
            finders = ((hour, partial(self.detector.centres, maps)) for hour, maps in frames)
            found = follow(finders, self.start, self.criteria)
            tracks = [found] if found else []
        for track in tracks:
            track.member = member
        done(1)
        return tracks

    def errors(self, tracks: Sequence[Track]) -> list[ErrorRow]:
        """Return the errors against the reference, empty without one."""
        if self.reference is None:
            return []
        chosen = tracks if self.start else matching(tracks, self.reference, self.init)
        return track_errors(chosen, self.reference, self.init)

    def summary(self, tracks: Sequence[Track], rows: Sequence[ErrorRow]) -> Iterator[str]:
        """Yield what is said about the tracks."""
        have = len({track.member for track in tracks})
        longest = max((t.hours[-1] - t.hours[0] for t in tracks), default=0)
        what = "the storm" if self.start else f"{len(tracks)} tracks"
        yield (
            f"{have} of {len(self.members)} members have {what}; criteria {self.criteria.name}"
            + (f", the longest {longest:g} h" if tracks else "; the tables are empty")
        )
        if self.reference is not None:
            yield from table(rows, self.reference, len(self.members))

    def writers(self, tracks: Sequence[Track], rows: Sequence[ErrorRow]) -> dict[Path, Callable[[Path], object]]:
        """Return for each file the function that writes it."""
        request, grid, about = self.request, self.store.grid, self._about()
        strike = strike_probability(tracks, grid, len(self.members), request.radius_km)
        data = strike_dataset(strike, grid, self.init, self.hours[-1], request.radius_km, about)
        stem = request.out or request.file
        stem = stem.with_suffix("") if stem.suffix in SUFFIXES else stem
        texts = {"_tracks.csv": tracks_csv(tracks, self.init), "_tracks.geojson": geojson(tracks, self.init, about)}
        if self.reference is not None:
            texts["_errors.csv"] = errors_csv(rows)
        out: dict[Path, Callable[[Path], object]] = {}
        for end, text in texts.items():
            out[stem.with_name(stem.name + end)] = partial(Path.write_text, data=text, encoding="utf-8")
        out[stem.with_name(f"{stem.name}_strike.nc")] = lambda path: data.to_netcdf(path, engine="h5netcdf")
        if request.figure:
            out[stem.with_name(f"{stem.name}_tracks.png")] = lambda path: self._draw(path, tracks)
        return out

    def _frames(self, member: int) -> Iterator[tuple[float, Maps]]:
        """Yield lead time and maps, reading a few lead times at a time."""
        channels = list(dict.fromkeys(c for found in self.use.values() for c in found))
        block = max(1, BLOCK_BYTES // (4 * len(channels) * int(np.prod(self.store.grid.shape))))
        for first in range(0, self.hours.size, block):
            hours = self.hours[first : first + block]
            if self.start and hours[-1] < self.start[2]:
                continue
            leads = hours.astype(np.int64).astype("timedelta64[h]")
            one = slice(member, member + 1)
            fields = {c.code: self.store.read(self.init, leads, c, one)[0].numpy() for c in channels}
            for code, values in fields.items():
                if not np.isfinite(values).all():
                    raise ValueError(f"{self.request.file}: {code} of member {member} has missing values (NaN)")
            for k, hour in enumerate(hours):
                yield float(hour), {code: values[k] for code, values in fields.items()}

    def _storm(self) -> tuple[Reference | None, tuple[float, float, float] | None]:
        """Return the reference and the start (latitude, longitude, lead time) that were asked for."""
        request, given = self.request, None
        if request.start and request.start != FROM_REFERENCE:
            lat, lon, time = _parse_start(request.start)
            given = (lat, lon, self._lead(time, f"start {request.start}"))
        if request.reference is None:
            if request.start == FROM_REFERENCE:
                raise ValueError("--start reference needs --reference FILE")
            return None, given
        period = self._time(self.hours[0]), self._time(self.hours[-1])
        place = (given[0], given[1], self._time(given[2])) if given else None
        storm = choose_storm(read_reference(request.reference), request.storm, period, place)
        if request.start != FROM_REFERENCE:
            return storm, given
        for hour in self.hours:
            if (k := storm.at(self._time(hour))) is not None:
                return storm, (float(storm.lat[k]), float(storm.lon[k]), float(hour))
        raise ValueError(f"{storm.label()} has no fix at a time of the forecast")

    def _lead(self, time: np.datetime64, what: str) -> float:
        hour = float((time - self._time(0.0)) / np.timedelta64(1, "s")) / 3600
        if not self.hours[0] - 1e-9 <= hour <= self.hours[-1] + 1e-9:
            span = " to ".join(str(self._time(h))[:13] for h in self.hours[[0, -1]])
            raise ValueError(f"{what}: the time lies outside the forecast, which is valid from {span}")
        return float(self.hours[int(np.argmin(np.abs(self.hours - hour)))])

    def _time(self, hour: float) -> np.datetime64:
        return self.init.astype("datetime64[s]") + np.timedelta64(round(hour * 3600), "s")

    def _about(self) -> dict[str, str]:
        """Return the provenance that goes into the files."""
        attrs = _attributes(self.request.file)
        asked = {key: str(value) for key, value in asdict(self.request).items() if value not in (None, ())}
        extra = {
            "forecast": self.request.file.name,
            "model": attrs.get("model"),
            "synthetic": attrs.get("synthetic"),
            "warning": attrs.get("warning"),
            "criteria": str(asdict(self.criteria)),
            "members_tracked": " ".join(map(str, self.members)),
            "start": self.request.start,
        }
        facts = provenance(config_hash(asked), attrs.get("model_hash", ""), 0, **extra)
        facts["seed"] = attrs.get("seed", "")  # the forecast's: tracking draws nothing
        return {key: value for key, value in facts.items() if value}

    def _draw(self, path: Path, tracks: Sequence[Track]) -> Path:
        from gen.plot.forecast_view import ForecastView
        from gen.plot.tracks import Line, draw_tracks, figure_grid

        lines = [
            Line(str(t.member), np.array(t.hours), found["lat"], found["lon"], found["msl"] / 100)
            for t, found in ((t, t.table()) for t in tracks)
        ]
        observed = None
        if (r := self.reference) is not None:
            hours = (r.times - self._time(0.0)) / np.timedelta64(3600, "s")
            near = (hours >= self.hours[0]) & (hours <= self.hours[-1])
            observed = Line(r.name, hours[near], r.lat[near], r.lon[near], r.pressure[near])
        view, followed = ForecastView(self.request.file, str(self.init)), self.start is not None
        shown = [*lines, observed] if observed is not None and observed.lat.size else lines
        radius = self.request.radius_km
        grid = figure_grid(shown, radius, self.store.grid)
        strike = strike_probability(tracks, grid, len(self.members), radius)
        return draw_tracks(view, grid, strike, radius, lines, observed, followed, self.criteria.name, path)


def _open(file: Path) -> ForecastStore:
    if (file / "latent").is_dir():
        raise ValueError(f"{file} holds latents; turn them into fields first: gen decode {file} --model … --out …")
    return ForecastStore(file)


def _there(file: Path, store: ForecastStore) -> tuple[Channel, ...]:
    """Return the channels that hold values: not every variable has every level of the level axis."""
    stated = _attributes(file).get("channels", "").split()
    return tuple(c for c in store.channels if not stated or c.code in stated)


def _attributes(file: Path) -> dict[str, str]:
    import xarray as xr

    with xr.open_dataset(file, engine="zarr" if file.is_dir() else None, decode_times=False) as data:
        return {str(key): str(value) for key, value in data.attrs.items()}


def _choose_init(store: ForecastStore, text: str | None) -> np.datetime64:
    if text is None:
        return np.datetime64(store.inits[0], "h")
    try:
        init = np.datetime64(text, "h")
    except ValueError:
        raise ValueError(f"init {text!r} is not a date; write 2024-01-01 or 2024-01-01T12") from None
    if init not in store.inits:
        raise ValueError(f"{store.path} has no forecast from {init}; its first is from {store.inits[0]}")
    return init


def _choose_members(store: ForecastStore, members: tuple[int, ...] | None) -> list[int]:
    if not members:
        return list(range(store.members))
    if wrong := [m for m in members if not 0 <= m < store.members]:
        raise ValueError(f"{store.path} has no member {wrong[0]}; it has 0 to {store.members - 1}")
    return sorted(set(members))


def _check_steps(hours: NDArray[np.float64], file: Path) -> None:
    widest = float(np.diff(hours).max()) if hours.size > 1 else 0.0
    if hours.size < 2 or widest > LONGEST_STEP_HOURS:
        found = f"steps of {widest:g} h" if hours.size > 1 else "a single lead time"
        raise ValueError(f"{file} has {found}; tracks need {LONGEST_STEP_HOURS:g} h or less (gen sample --step 6h)")


def _parse_start(text: str) -> tuple[float, float, np.datetime64]:
    match = re.fullmatch(START, text.strip())
    try:
        if match is None:
            raise ValueError
        lat, lon = float(match[1]), float(match[2])
        time = np.datetime64(match[3].rstrip("Z").replace(" ", "T"), "s")
        if not (-90 <= lat <= 90 and -180 <= lon <= 360):
            raise ValueError
    except ValueError:
        raise ValueError(f"start {text!r}: write LAT,LON,TIME, for example 23.1,-75.1,2005-08-24T00") from None
    return lat, (lon + 180) % 360 - 180, time
