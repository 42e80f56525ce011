"""ERA5 on a local disk: 6-hourly states at 1.5 degrees, to train on and to start from.

States are streamed out of a WeatherBench-2 or ARCO-ERA5 store, in the cloud or local, chunk after chunk; those of 0.25
degrees become area means over the cells of the 121 x 240 grid. Rules:

* `total_precipitation_6hr` is summed from hourly totals on the grid of the source (`gen.data.reader`).
* The sea surface temperature of a cell is the mean over the part of it that is sea, NaN where there is none; this is
  the rule of WeatherBench 2, so that stores from both sources agree. `min_sea` asks for a larger share of sea.
* Any other value that is not a number is an error; a time that the source lacks is left out and cuts the segments.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["GRID", "LICENCE", "Era5Request", "make_era5", "run_era5"]

import numpy as np

from gen.data.reader import StoreReader
from gen.data.regrid import Coarsening
from gen.data.sources import SourceError, summary
from gen.data.stores import Store, open_store
from gen.data.variables import LADCAST_CHANNELS, Channel, make_channels, parse_channel
from gen.data.world_writer import WorldWriter
from gen.fields import Field
from gen.grid import LatLonGrid
from gen.progress import SILENT, Reporter

log = logging.getLogger(__name__)

LICENCE = (
    "Contains modified Copernicus Climate Change Service information. Neither the European Commission nor ECMWF is "
    "responsible for any use that may be made of the Copernicus information or data it contains."
)
CITATION = "ERA5, Hersbach et al. 2020, doi 10.1002/qj.3803"
GRID = LatLonGrid.equiangular(121, 240, poles=True)
BEST_RATIO = 2.5  # compression of float32 weather fields is 1.3 to 1.7; more than this is not to be hoped for


@dataclass(frozen=True)
class Era5Request:
    """What to make.

    Args:
        source: "wb2", "arco-era5", or a local Zarr store of either layout.
        out: Zarr store to write; an unfinished one is continued.
        start: first time (default: the source's first).
        stop: end of the interval, exclusive (default: all of the source).
        every: hours between states; states are at whole multiples since 1970 (6: 00, 06, 12 and 18 UTC).
        channels: default: the 84 of LaDCast.
        chunk: times in a chunk of the store.
        workers: chunks that are read at the same time.
        min_sea: share of a cell that must be sea, where the source is regridded.

    Raises:
        ValueError: when a number is out of range.
    """

    source: str
    out: Path
    start: str | None = None
    stop: str | None = None
    every: int = 6
    channels: tuple[Channel, ...] = LADCAST_CHANNELS
    chunk: int = 4
    workers: int = 2
    min_sea: float = 0.0

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name in ("every", "chunk", "workers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; got {getattr(self, name)}")
        if not 0.0 <= self.min_sea <= 1.0:
            raise ValueError(f"min_sea must be in [0, 1]; got {self.min_sea}")
        if len(set(self.channels)) != len(self.channels) or not self.channels:
            raise ValueError("channels must be at least one, each of them once")


def run_era5(reporter: Reporter = SILENT, **options: Any) -> Path:
    """Serve `gen data era5`: `every` as text ("6h", "1d"), channels as codes."""
    if "every" in options:
        options["every"] = _hours(options["every"])
    if "channels" in options:
        options["channels"] = tuple(parse_channel(code) for code in options["channels"])
    with reporter.bar("era5", unit="chunks") as bar:
        path = make_era5(Era5Request(**options), bar.report)
    reporter.say(str(path))
    return path


def make_era5(request: Era5Request, report: Callable[[int, int], None] = lambda done, total: None) -> Path:
    """Make the store; `report(done, total)` is called with chunks. Returns its path.

    Raises:
        SourceError: when the source lacks something or cannot be read; what was written stays, to be continued.
    """
    reader = StoreReader(_open(request.source), _complete(request.channels), request.every)
    first, stop = _interval(reader, request)
    hours = reader.hours[first:stop]
    means = _means(reader, request.min_sea)
    writer = WorldWriter(
        request.out,
        reader.channels,
        GRID,
        hours,
        chunk=request.chunk,
        request=_wish(request, hours),
        attributes=_attributes(request, reader),
    )
    if writer.complete:
        log.info("%s is complete", request.out)
        return request.out
    _say_size(request, reader, len(hours))
    if writer.finished == 0:
        writer.write_static(_static(reader))
    for number, states in _states(reader, writer, first, means, request.workers):
        writer.write(number, states)
        report(number + 1, writer.chunks)
    return writer.finish({"segments": _segments(reader, first, stop)})


def _open(source: str) -> Store:
    from gen.data.cloud import STORES, open_cloud_store

    return open_cloud_store(source) if source in STORES else open_store(Path(source).expanduser())


def _complete(channels: Sequence[Channel]) -> tuple[Channel, ...]:
    """Return the channels with every upper-air variable on all levels that occur: a store has one level axis."""
    levels = sorted({c.level for c in channels if c.level is not None})
    return make_channels(list(dict.fromkeys(c.name for c in channels)), levels)


def _interval(reader: StoreReader, request: Era5Request) -> tuple[int, int]:
    """Return the index range of the request; a date outside the source is refused."""
    span = [np.datetime64(int(reader.hours[0]), "h"), np.datetime64(int(reader.hours[-1]) + 1, "h")]
    for name, text in (("start", request.start), ("stop", request.stop)):
        try:
            date = None if text is None else np.datetime64(text, "h")
        except ValueError:
            raise SourceError(f"{name} must be a date like 2020-01-31 or 2020-01-31T06; got {text!r}") from None
        if date is not None and not span[0] <= date <= span[1] + np.timedelta64(request.every - 1, "h"):
            why = " (rain needs the five hours before a time)" if name == "start" and date < span[0] else ""
            raise SourceError(f"{name} {date} lies outside {reader.name}, which covers {reader.span()}{why}")
    return reader.indices(request.start or str(span[0]), request.stop or str(span[1]))


def _means(reader: StoreReader, min_sea: float) -> Coarsening | None:
    """Return the way from the grid of the source to 1.5 degrees, None where it is that grid."""
    if reader.grid == GRID:
        return None
    if reader.grid.shape[0] < GRID.shape[0] or reader.grid.shape[1] < GRID.shape[1]:
        rows, columns = reader.grid.shape
        raise SourceError(f"{reader.name} has a {rows}x{columns} grid, coarser than the 121x240 grid that is made")
    try:
        return Coarsening(reader.grid, GRID, min_sea)
    except ValueError as error:
        raise SourceError(f"{reader.name}: {error}") from None


def _states(
    reader: StoreReader, writer: WorldWriter, first: int, means: Coarsening | None, workers: int
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the chunks that are not written yet, in order, while `workers` later ones are being read."""

    def load(number: int) -> np.ndarray:
        where = writer.times(number)
        if means is None:
            return reader.read(slice(first + where.start, first + where.stop)).numpy()
        single = (slice(first + i, first + i + 1) for i in range(where.start, where.stop))
        return np.concatenate([means(reader.read(one).numpy()) for one in single])  # a state of 0.25 degrees is 350 MB

    with ThreadPoolExecutor(workers) as pool:
        waiting: list[tuple[int, Future[np.ndarray]]] = []
        try:
            for number in range(writer.finished, writer.chunks):
                waiting.append((number, pool.submit(load, number)))
                if len(waiting) > workers:
                    yield waiting[0][0], waiting.pop(0)[1].result()
            while waiting:
                yield waiting[0][0], waiting.pop(0)[1].result()
        finally:
            for _, future in waiting:
                future.cancel()


def _static(reader: StoreReader) -> Field:
    """Return the static fields of the source on the grid of the store."""
    from gen.data.regrid import regrid_maps

    if not (names := reader.static_names()):
        log.warning("%s holds no static fields", reader.name)
        return Field(_tensor(np.empty((0, *GRID.shape))), (), GRID)
    field = reader.static_field(names)
    return Field(_tensor(regrid_maps(field.values.numpy(), field.grid, GRID)), field.channels, GRID)


def _tensor(values: np.ndarray) -> Any:
    import torch

    return torch.from_numpy(values.astype(np.float32))


def _segments(reader: StoreReader, first: int, stop: int) -> list[dict[str, int]]:
    """Return the stretches without a gap, counted from the first time of the store."""
    ranges = [(max(s["first"], first) - first, min(s["stop"], stop) - first) for s in reader.segments]
    found = [{"first": a, "stop": b} for a, b in ranges if b > a]
    if len(found) > 1:
        log.warning("%s lacks times: the store has %d segments", reader.name, len(found))
    return found


def _wish(request: Era5Request, hours: np.ndarray) -> dict[str, Any]:
    """Return what decides the store."""
    return {
        "source": request.source,
        "begin": str(np.datetime64(int(hours[0]), "h")),
        "end": str(np.datetime64(int(hours[-1]), "h")),
        "times": len(hours),
        "every": request.every,
        "channels": [c.code for c in request.channels],
        "chunk": request.chunk,
        "min_sea": request.min_sea,
    }


def _attributes(request: Era5Request, reader: StoreReader) -> dict[str, Any]:
    """Return source and licence; data that say they are simulated keep saying so."""
    mark = str(reader.group.attrs.get("synthetic", "false")).lower()
    if mark in ("true", "1"):
        return {"synthetic": "true", "source": f"{request.source}: simulated, not observed"}
    return {"synthetic": "false", "source": f"{CITATION}; from {request.source}", "license": LICENCE}


def _say_size(request: Era5Request, reader: StoreReader, times: int) -> None:
    """Say how large the store can become; refuse what cannot fit."""
    nbytes = times * len(reader.channels) * GRID.shape[0] * GRID.shape[1] * 4
    folder = next(p for p in (request.out.absolute().parent, *request.out.absolute().parents) if p.exists())
    free = shutil.disk_usage(folder).free
    log.info(
        "%s: %d states of %s, at most %.3g GB; %.3g GB are free",
        request.out,
        times,
        summary(reader.channels),
        nbytes / 1e9,
        free / 1e9,
    )
    if nbytes / BEST_RATIO > free:
        raise SourceError(
            f"{request.out} needs {nbytes / 1e9:.3g} GB before compression, and {free / 1e9:.3g} GB are free; "
            "ask for fewer years, channels or times a day"
        )


def _hours(text: str) -> int:
    """Read "6h" or "1d" as hours."""
    number, unit = str(text)[:-1], str(text)[-1:]
    if not number.isdecimal() or unit not in ("h", "d") or int(number) < 1:
        raise ValueError(f'every must be a duration like "6h" or "1d"; got {text!r}')
    return int(number) * (24 if unit == "d" else 1)
