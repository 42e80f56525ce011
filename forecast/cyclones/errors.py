"""Track errors of an ensemble against a reference track, lead time by lead time.

The direct position error is the great-circle distance from the observed to the forecast position. Its parts refer to
the direction in which the observed storm moved until then (from its last fix; at its first, towards the next):

    sin(cross / a) = sin(d / a) sin(theta)        tan(along / a) = tan(d / a) cos(theta)

with theta the angle from that direction to the forecast position. As at the Met Office (Heming 2016,
doi 10.1002/met.1599): along is positive ahead of the observed storm; cross is positive to its right in the northern and
to its left in the southern hemisphere. Only times at which the reference has a fix are compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["ErrorRow", "Summary", "matching", "summarise", "table", "track_errors"]

import numpy as np

from forecast.cyclones.reference import Reference
from forecast.cyclones.sphere import bearing, mean_position
from forecast.cyclones.track import Track
from gen.grid import EARTH_RADIUS_KM, haversine

MATCH_KM = 500.0
MATCH_HOURS = 24.0
MEAN = "mean"


@dataclass(frozen=True)
class ErrorRow:
    """One member, or the ensemble mean, at one lead time; km, hPa, m/s; forecast minus reference."""

    member: str
    lead_hours: float
    time: str
    lat: float
    lon: float
    ref_lat: float
    ref_lon: float
    error_km: float
    along_km: float
    cross_km: float
    pressure_error_hpa: float
    wind_error_m_s: float


@dataclass(frozen=True)
class Summary:
    """All members at one lead time.

    Attributes:
        members: how many have the storm; the means are over these.
        error_km: mean of the members' errors; mean_km: error of the mean position; along_km, cross_km: of it.
        spread_km: mean distance of the members from the mean position.
        pressure_hpa, wind_m_s: mean errors.
        same_km: mean error of the members that have the storm at every verified lead time (a homogeneous sample).
    """

    lead_hours: float
    members: int
    error_km: float
    mean_km: float
    along_km: float
    cross_km: float
    spread_km: float
    pressure_hpa: float
    wind_m_s: float
    same_km: float


def matching(tracks: Sequence[Track], reference: Reference, init: np.datetime64) -> list[Track]:
    """Return for each member the track of the reference's storm: nearest in the first 24 common hours, in 500 km."""
    best: dict[int, tuple[float, Track]] = {}
    for track in tracks:
        away = [(h, haversine(*track.position(k), reference.lat[j], reference.lon[j]))
                for k, h in enumerate(track.hours) if (j := reference.at(_time(init, h))) is not None]  # fmt: skip
        first = [float(km) for h, km in away if h - away[0][0] <= MATCH_HOURS]
        if first and (mean := float(np.mean(first))) <= min(MATCH_KM, best.get(track.member, (np.inf,))[0]):
            best[track.member] = mean, track
    return [track for _, track in (best[m] for m in sorted(best))]


def track_errors(tracks: Sequence[Track], reference: Reference, init: np.datetime64) -> list[ErrorRow]:
    """Return the errors of every member and of the mean position (member "mean"), by lead time.

    Args:
        tracks: at most one track of each member, all of the reference's storm.
        reference: the observed track.
        init: initialisation time.
    """
    rows: list[ErrorRow] = []
    for hour in sorted({h for track in tracks for h in track.hours}):
        k = reference.at(_time(init, hour))
        if k is None:
            continue
        here = [(track, track.hours.index(hour)) for track in tracks if hour in track.hours]
        for track, j in here:
            centre = track.centres[j]
            strength = centre["msl"] / 100 - reference.pressure[k], centre["wind"] - reference.wind[k]
            rows.append(_row(str(track.member), hour, init, track.position(j), reference, k, *map(float, strength)))
        lat, lon = np.array([track.position(j) for track, j in here]).T
        mean = [float(np.mean([getattr(r, name) for r in rows[-len(here) :]]))
                for name in ("pressure_error_hpa", "wind_error_m_s")]  # fmt: skip
        rows.append(_row(MEAN, hour, init, mean_position(lat, lon), reference, k, *mean))
    return rows


def summarise(rows: Sequence[ErrorRow]) -> list[Summary]:
    """Return one line for each lead time."""
    leads = sorted({row.lead_hours for row in rows})
    by_lead = {h: [r for r in rows if r.lead_hours == h and r.member != MEAN] for h in leads}
    always = set.intersection(*({r.member for r in found} for found in by_lead.values())) if leads else set()
    out = []
    for hour, found in by_lead.items():
        mean = next(r for r in rows if r.lead_hours == hour and r.member == MEAN)
        spread = haversine(mean.lat, mean.lon, [r.lat for r in found], [r.lon for r in found])
        same = [r.error_km for r in found if r.member in always]
        out.append(
            Summary(
                hour, len(found), float(np.mean([r.error_km for r in found])), mean.error_km, mean.along_km,
                mean.cross_km, float(spread.mean()), mean.pressure_error_hpa, mean.wind_error_m_s,
                float(np.mean(same)) if same else np.nan,
            )
        )  # fmt: skip
    return out


def table(rows: Sequence[ErrorRow], reference: Reference, members: int) -> list[str]:
    """Return the lines of a short table with the statement about its sample."""
    lines = [f"track errors against {reference.label()}, {reference.source}; km, hPa, m/s"]
    found = summarise(rows)
    if not found:
        return [*lines, "no forecast position at a time of the reference"]
    lines.append(" lead  members   error  of mean   along   cross  spread  pressure   wind   same members")
    for s in found:
        lines.append(
            f"{s.lead_hours:4.0f}h {s.members:8d} {s.error_km:7.0f} {s.mean_km:8.0f} {s.along_km:7.0f}"
            f" {s.cross_km:7.0f} {s.spread_km:7.0f} {_number(s.pressure_hpa, '9.1f')} {_number(s.wind_m_s, '6.1f')}"
            f" {_number(s.same_km, '14.0f')}"
        )
    counts = [s.members for s in found]
    same = len(set.intersection(*({r.member for r in rows if r.lead_hours == s.lead_hours} for s in found)) - {MEAN})
    lines.append(
        f"of {members} members {max(counts)} to {min(counts)} have the storm, so lead times are "
        + ("" if min(counts) == max(counts) else "not ")
        + f"a homogeneous sample; 'same members' is the error of the {same} that have it at every lead time"
    )
    return lines


def _row(
    member: str, hour: float, init: np.datetime64, place: tuple[float, float], reference: Reference, k: int,
    pressure: float, wind: float,
) -> ErrorRow:  # fmt: skip
    lat, lon = float(reference.lat[k]), float(reference.lon[k])
    km = float(haversine(lat, lon, *place))
    along, cross = _parts(km, bearing(lat, lon, *place) - _heading(reference, k), lat)
    time = str(_time(init, hour))
    return ErrorRow(member, hour, time, *place, lat, lon, km, along, cross, pressure, wind)


def _parts(km: float, theta: float, lat: float) -> tuple[float, float]:
    arc = km / EARTH_RADIUS_KM
    cross = EARTH_RADIUS_KM * np.arcsin(np.sin(arc) * np.sin(theta))
    along = EARTH_RADIUS_KM * np.arctan2(np.sin(arc) * np.cos(theta), np.cos(arc))
    return float(along), float(cross if lat >= 0 else -cross)


def _heading(reference: Reference, k: int) -> float:
    """Return the direction in which the observed storm arrived at a fix, NaN when it never moved until then."""
    here = float(reference.lat[k]), float(reference.lon[k])
    for j in range(k - 1, -1, -1):
        if haversine(*here, reference.lat[j], reference.lon[j]) > 1.0:
            return bearing(*here, float(reference.lat[j]), float(reference.lon[j])) + np.pi
    for j in range(k + 1, reference.times.size):
        if haversine(*here, reference.lat[j], reference.lon[j]) > 1.0:
            return bearing(*here, float(reference.lat[j]), float(reference.lon[j]))
    return np.nan


def _time(init: np.datetime64, hour: float) -> np.datetime64:
    return init.astype("datetime64[s]") + np.timedelta64(round(hour * 3600), "s")


def _number(value: float, form: str) -> str:
    return format(value, form) if np.isfinite(value) else "-".rjust(int(form.split(".")[0]))
