"""Reference tracks: HURDAT2, the storms table made from it, and IBTrACS as CSV or NetCDF.

HURDAT2   NOAA's text: a header `AL092011, IRENE, 39,` and lines of date, time, record, status, latitude, longitude,
          wind (kt), pressure (hPa), …; -999 (wind also -99) is missing (Landsea & Franklin 2013,
          doi 10.1175/MWR-D-12-00254.1).
storms    columns name, year, month, day, hour, lat, long, wind, pressure (the form that dplyr made known).
IBTrACS   version 4, CSV (second line: units) or NetCDF, doi 10.25921/82ty-9e16, Knapp et al. 2010; main tracks only;
          wind and pressure of the WMO agency, else of the US agencies. Also single tracks with the variables
          max_sustained_wind and central_pressure over a dimension time, as CLIMADA writes them.

Winds become m/s (1 kt = 1852/3600 m/s). Agencies average wind over 1, 2, 3 or 10 minutes; nothing is converted.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Reference", "choose_storm", "read_reference"]

import numpy as np
from numpy.typing import NDArray

from gen.grid import haversine

Array = NDArray[np.float64]

KNOT = 1852.0 / 3600.0
NEW_STORM = np.timedelta64(10, "D")
NEAR_KM = 500.0
LISTED = 6


@dataclass(frozen=True)
class Reference:
    """An observed track.

    Attributes:
        name: name of the storm; `id`: identifier, or name and year.
        times: datetime64[s], ascending; lat, lon: degrees; pressure: hPa or NaN; wind: m/s or NaN.
        source: kind of file.
    """

    name: str
    id: str
    times: NDArray[np.datetime64]
    lat: Array
    lon: Array
    pressure: Array
    wind: Array
    source: str

    def at(self, time: np.datetime64) -> int | None:
        """Return the index of a time, None when the track has no fix at it; nothing is interpolated."""
        found = np.flatnonzero(self.times == time)
        return int(found[0]) if found.size else None

    def label(self) -> str:
        """Return name, identifier and period for people."""
        return f"{self.name} ({self.id}, {str(self.times[0])[:10]} to {str(self.times[-1])[:10]})"


def read_reference(path: Path) -> list[Reference]:
    """Return every track of a file, whatever its format.

    Raises:
        ValueError: not readable, or in none of the formats.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file of reference tracks")
    with path.open("rb") as stream:
        head = stream.read(4096)
    try:
        if head.startswith((b"\x89HDF", b"CDF")):
            found = list(_netcdf(path))
        elif re.match(rb"\s*[A-Z]{2}\d{6}\s*,", head):
            found = list(_hurdat2(path))
        else:
            found = list(_table(path))
    except (KeyError, IndexError, UnicodeDecodeError, OSError, ValueError) as error:
        told = f"{type(error).__name__}: {error}".strip()
        raise ValueError(f"{path} is not a track file that can be read ({' '.join(told.split())[:120]})") from error
    if not found:
        raise ValueError(f"{path} holds no tracks; known are HURDAT2, storms.csv, IBTrACS CSV and NetCDF")
    return found


def choose_storm(
    tracks: Sequence[Reference],
    name: str | None,
    period: tuple[np.datetime64, np.datetime64],
    start: tuple[float, float, np.datetime64] | None = None,
) -> Reference:
    """Return the storm of that name or identifier ("Katrina", "Katrina 2005", "AL122005") which lives in the period.

    Without a name it is the only storm of the period, or the only one within 500 km of `start` at its time.

    Raises:
        ValueError: none or several; lists them.
    """
    living = [t for t in tracks if t.times[-1] >= period[0] and t.times[0] <= period[1]]
    fits = [t for t in living if _called(t, name)] if name else living
    if not name and start and len(fits) > 1:
        fits = [t for t in fits if (k := t.at(start[2])) is not None
                and haversine(start[0], start[1], t.lat[k], t.lon[k]) <= NEAR_KM]  # fmt: skip
    if len(fits) == 1:
        return fits[0]
    span = f"{str(period[0])[:13]} to {str(period[1])[:13]}"
    if fits:
        raise ValueError(f"several storms fit {name or span}: {_listed(fits)}; name one with --storm ID")
    if name and (elsewhere := [t for t in tracks if _called(t, name)]):
        raise ValueError(f"{name} does not live in the forecast's time, {span}: {_listed(elsewhere)}")
    what = f"storm {name!r}" if name else f"storm from {span}"
    raise ValueError(f"the reference has no {what}" + (f"; in that time it has {_listed(living)}" if living else ""))


def _called(track: Reference, name: str) -> bool:
    words = re.split(r"[\s_-]+", name.strip().upper())
    known = {track.name.upper(), track.id.upper()} | {w for w in re.split(r"[\s_-]+", track.id.upper())}
    years = {str(track.times[0])[:4], str(track.times[-1])[:4]}
    return name.strip().upper() in known or (len(words) > 1 and words[-1] in years and " ".join(words[:-1]) in known)


def _listed(tracks: Sequence[Reference]) -> str:
    shown = [t.label() for t in tracks[:LISTED]]
    return "; ".join(shown) + (f"; and {len(tracks) - LISTED} more" if len(tracks) > LISTED else "")


def _made(name: str, identifier: str, rows: Sequence[tuple[Any, ...]], source: str) -> Reference:
    """Return a track of rows (time, lat, lon, wind in kt, pressure in hPa), sorted, every time once."""
    ordered = sorted({row[0]: row for row in reversed(rows)}.values())
    times = np.array([row[0] for row in ordered], "datetime64[s]")
    lat, lon, wind, pressure = (np.array([row[k] for row in ordered], np.float64) for k in (1, 2, 3, 4))
    if not (np.abs(lat) <= 90).all() or not (np.abs(lon) <= 360).all():
        raise ValueError(f"{identifier} has a position that is not on the globe")
    return Reference(name, identifier, times, lat, (lon + 180) % 360 - 180, pressure, wind * KNOT, source)


def _hurdat2(path: Path) -> Iterator[Reference]:
    name, identifier, rows = "", "", list[tuple[Any, ...]]()
    with path.open(encoding="utf-8") as stream:
        for line in csv.reader(stream, skipinitialspace=True):
            words = [word.strip() for word in line]
            if not words or not words[0]:
                continue
            if re.fullmatch(r"[A-Z]{2}\d{6}", words[0]):
                if rows:
                    yield _made(name, identifier, rows, "HURDAT2")
                identifier, name, rows = words[0], words[1], []
                continue
            day, clock = words[0], words[1]
            time = np.datetime64(f"{day[:4]}-{day[4:6]}-{day[6:8]}T{clock[:2]}:{clock[2:4]}", "s")
            wind, pressure = _above(words[6]), _above(words[7])
            rows.append((time, _signed(words[4]), _signed(words[5]), wind, pressure))
    if rows:
        yield _made(name, identifier, rows, "HURDAT2")


def _table(path: Path) -> Iterator[Reference]:
    with path.open(encoding="utf-8-sig", newline="") as stream:
        rows = list(csv.DictReader(stream))
    columns = set(rows[0]) if rows else set()
    if {"SID", "ISO_TIME", "LAT", "LON"} <= columns:
        yield from _ibtracs_csv(rows)
    elif {"name", "year", "month", "day", "hour", "lat", "long", "wind", "pressure"} <= columns:
        yield from _storms(rows)
    else:
        raise ValueError(f"its columns are {', '.join(sorted(map(str, columns))[:8]) or 'none'}")


def _storms(rows: Sequence[dict[str, str]]) -> Iterator[Reference]:
    """Yield tracks: rows of one name follow each other; a pause of ten days begins another storm of that name."""
    current: list[tuple[Any, ...]] = []
    name = ""
    for row in rows:
        day = f"{int(row['year']):04d}-{int(row['month']):02d}-{int(row['day']):02d}"
        time = np.datetime64(f"{day}T{int(float(row['hour'])):02d}", "s")
        if current and (row["name"] != name or abs(time - current[-1][0]) > NEW_STORM):
            yield _made(name, f"{name} {str(current[0][0])[:4]}", current, "storms table (HURDAT2)")
            current = []
        name = row["name"]
        current.append((time, float(row["lat"]), float(row["long"]), _above(row["wind"]), _above(row["pressure"])))
    if current:
        yield _made(name, f"{name} {str(current[0][0])[:4]}", current, "storms table (HURDAT2)")


def _ibtracs_csv(rows: Sequence[dict[str, str]]) -> Iterator[Reference]:
    storms: dict[str, tuple[str, list[tuple[Any, ...]]]] = {}
    for row in rows:
        if not re.match(r"\d{4}-", row["ISO_TIME"]) or "spur" in (row.get("TRACK_TYPE") or "").lower():
            continue  # the line of units, or a second opinion about a storm
        wind, pressure = (_first(row, f"WMO_{what}", f"USA_{what}") for what in ("WIND", "PRES"))
        time = np.datetime64(row["ISO_TIME"].strip().replace(" ", "T"), "s")
        fix = (time, float(row["LAT"]), float(row["LON"]), wind, pressure)
        storms.setdefault(row["SID"], ((row.get("NAME") or "").strip(), []))[1].append(fix)
    for identifier, (name, fixes) in storms.items():
        yield _made(name, identifier, fixes, "IBTrACS")


def _first(row: dict[str, str], *names: str) -> float:
    values = [_above(row.get(name) or "") for name in names]
    return next((value for value in values if np.isfinite(value)), np.nan)


def _netcdf(path: Path) -> Iterator[Reference]:
    import xarray

    with xarray.open_dataset(path) as data:
        if {"max_sustained_wind", "central_pressure"} <= set(data.variables):
            names = ("lat", "lon", "max_sustained_wind", "central_pressure")
            times, columns = data["time"].values.astype("datetime64[s]"), [np.asarray(data[n].values) for n in names]
            if (unit := str(data.attrs.get("max_sustained_wind_unit", "kn"))) != "kn":
                raise ValueError(f"wind in {unit}, not in kn")
            name, identifier = str(data.attrs.get("name", "")), str(data.attrs.get("sid", path.stem))
            yield _made(name, identifier, list(zip(times, *columns, strict=True)), "IBTrACS (CLIMADA)")
            return
        yield from _ibtracs_netcdf(data)


def _ibtracs_netcdf(data: Any) -> Iterator[Reference]:
    """Yield the tracks of IBTrACS 4: arrays over (storm, date_time), texts as bytes."""
    values = {n: np.asarray(data[n].values) for n in ("lat", "lon", "sid", "name", "iso_time")}
    amounts = {n: np.asarray(data[n].values, np.float64)
               for n in ("wmo_wind", "wmo_pres", "usa_wind", "usa_pres") if n in data}  # fmt: skip
    kinds = np.asarray(data["track_type"].values) if "track_type" in data else None
    empty = np.full(values["lat"].shape, np.nan)
    best = [np.where(np.isfinite(amounts.get(f"wmo_{w}", empty)), amounts.get(f"wmo_{w}", empty),
                     amounts.get(f"usa_{w}", empty)) for w in ("wind", "pres")]  # fmt: skip
    for k in range(values["lat"].shape[0]):
        if kinds is not None and "spur" in _text(kinds[k]).lower():
            continue
        rows = []
        for j in np.flatnonzero(np.isfinite(values["lat"][k])):
            time = np.datetime64(_text(values["iso_time"][k, j]).replace(" ", "T"), "s")
            rows.append((time, values["lat"][k, j], values["lon"][k, j], best[0][k, j], best[1][k, j]))
        if rows:
            yield _made(_text(values["name"][k]), _text(values["sid"][k]), rows, "IBTrACS")


def _text(value: Any) -> str:
    return (value.decode("utf-8") if isinstance(value, bytes) else str(value)).strip()


def _above(text: str) -> float:
    """Return a number that must be above zero, NaN for none, blank or a negative mark of missing values."""
    try:
        number = float(text)
    except ValueError:
        return np.nan
    return number if number > 0 else np.nan


def _signed(text: str) -> float:
    number, letter = float(text[:-1]), text[-1].upper()
    if letter not in "NSEW":
        raise ValueError(f"{text!r} is no position such as 28.0N or 94.8W")
    return -number if letter in "SW" else number
