"""Join the centres of successive times to tracks, or follow one storm from a known position.

The first guess of the next position is the mean of two: the last displacement continued along its great circle, and the
last position carried by the steering wind (mean of 850, 700 and 500 hPa within 5 degrees), as far as they are known;
both are what ECMWF's tracker uses (User Guide to ECMWF Forecast Products, "Tropical cyclone diagrams"). Whole maps are
joined by the assignment of least total distance between first guesses and centres, so that the result does not depend
on an order of storms.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

__all__ = ["Track", "follow", "join", "lasting"]

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from forecast.cyclones.criteria import Criteria
from forecast.cyclones.detect import CENTRE
from forecast.cyclones.sphere import KM_PER_DEGREE, advance, continued, mean_position
from gen.grid import haversine

Position = tuple[float, float]
Finder = Callable[[tuple[float, float, float]], NDArray[np.void]]

RANGE_HOURS = 6.0  # the time that the ranges of `Criteria` are for
FAR = 1e9


@dataclass
class Track:
    """One storm of one member: lead times and the centres found there.

    Attributes:
        hours: lead times, ascending.
        centres: records `CENTRE`, one for each lead time.
        member: number of the member.
        number: number of the track in its member, from 1.
    """

    hours: list[float] = field(default_factory=list)
    centres: list[np.void] = field(default_factory=list)
    member: int = 0
    number: int = 1

    def add(self, hour: float, centre: np.void) -> None:
        """Continue the track."""
        self.hours.append(float(hour))
        self.centres.append(centre)

    def table(self) -> NDArray[np.void]:
        """Return the centres as one array of records."""
        return np.array(self.centres, CENTRE)

    def position(self, k: int = -1) -> Position:
        """Return latitude and longitude of a centre (default: the last)."""
        return float(self.centres[k]["lat"]), float(self.centres[k]["lon"])

    def guess(self, hour: float) -> Position:
        """Return the first guess of the position at a later lead time."""
        last, ahead = self.position(), hour - self.hours[-1]
        guesses = []
        if len(self.hours) > 1 and float(haversine(*self.position(-2), *last)) > 1.0:
            guesses.append(continued(self.position(-2), last, ahead / (self.hours[-1] - self.hours[-2])))
        u, v = (float(self.centres[-1][name]) for name in ("steer_u", "steer_v"))
        if np.isfinite(u + v):
            guesses.append(advance(*last, u, v, ahead))
        if not guesses:
            return last
        lat, lon = np.array(guesses).T
        return mean_position(lat, lon)


def join(times: Iterable[tuple[float, NDArray[np.void]]], criteria: Criteria) -> list[Track]:
    """Return the tracks through the centres of successive lead times (hour, records), those that last long enough."""
    open_tracks: list[Track] = []
    done: list[Track] = []
    before: float | None = None
    for hour, centres in times:
        done += [t for t in open_tracks if hour - t.hours[-1] > criteria.max_gap_hours]
        open_tracks = [t for t in open_tracks if hour - t.hours[-1] <= criteria.max_gap_hours]
        step = RANGE_HOURS if before is None else hour - before
        taken = _assign(open_tracks, centres, hour, step, criteria)
        for track, k in taken:
            track.add(hour, centres[k])
        new = set(range(len(centres))) - {k for _, k in taken}
        open_tracks += [Track([float(hour)], [centres[k]]) for k in sorted(new)]
        before = hour
    return lasting(done + open_tracks, criteria)


def follow(
    times: Iterable[tuple[float, Finder]], start: tuple[float, float, float], criteria: Criteria
) -> Track | None:
    """Return the track of the storm that is at (latitude, longitude) at a lead time, None when there is none.

    A centre belongs to it when its pressure contour is closed and its vorticity reaches the threshold, and when it lies
    within `search_deg` per 6 h of the first guess (`range_deg` in the first step, when no displacement is known) and
    `range_deg` per 6 h of the last position; the nearest to the first guess wins. The storm ends when there is none for
    longer than `max_gap_hours`. Warm core and wind are recorded but do not end a track, so that it may be followed
    through its extratropical transition.
    """
    track, before = Track(), start[2]
    for hour, find in times:
        if hour < start[2]:
            continue
        guess = track.guess(hour) if track.hours else (start[0], start[1])
        since = track.hours[-1] if track.hours else start[2]
        if hour - since > criteria.max_gap_hours:
            break
        step = max(hour - before, RANGE_HOURS) / RANGE_HOURS
        reach = criteria.range_deg if len(track.hours) == 1 else criteria.search_deg  # no displacement is known yet
        found = find((*guess, reach * KM_PER_DEGREE * step))
        found = found[(found["closed"] == 1) & (found["spin"] != 0)]
        if track.hours:
            limit = criteria.range_deg * KM_PER_DEGREE * (hour - track.hours[-1]) / RANGE_HOURS
            found = found[haversine(*track.position(), found["lat"], found["lon"]) <= limit]
        if found.size:
            track.add(hour, found[int(np.argmin(haversine(*guess, found["lat"], found["lon"])))])
        elif not track.hours:
            return None
        before = hour
    return track if track.hours else None


def lasting(tracks: Sequence[Track], criteria: Criteria) -> list[Track]:
    """Return the tracks that fulfil what the criteria ask of a whole track, numbered in the order of genesis."""
    kept = [t for t in tracks if t.hours[-1] - t.hours[0] >= criteria.min_hours and _kept_up(t, criteria)]
    kept.sort(key=lambda t: (t.hours[0], t.centres[0]["msl"]))
    for number, track in enumerate(kept, start=1):
        track.number = number
    return kept


def _kept_up(track: Track, criteria: Criteria) -> bool:
    """Return whether wind and latitude were within their limits at enough times."""
    table, step = track.table(), float(np.median(np.diff(track.hours))) if len(track.hours) > 1 else RANGE_HOURS

    def enough(good: NDArray[np.bool_], hours: float) -> bool:
        return int(good.sum()) >= int(np.ceil(hours / step)) + 1

    windy = criteria.min_wind is None or enough(table["windy"] == 1, criteria.wind_hours)
    limit = criteria.max_latitude
    return windy and (limit is None or enough(np.abs(table["lat"]) <= limit, criteria.latitude_hours))


def _assign(
    tracks: Sequence[Track], centres: NDArray[np.void], hour: float, step: float, criteria: Criteria
) -> list[tuple[Track, int]]:
    """Return pairs of track and centre: as many as are within range, with the least total distance to first guesses."""
    if not tracks or not len(centres):
        return []
    cost = np.full((len(tracks), len(centres)), FAR)
    for i, track in enumerate(tracks):
        away = haversine(*track.guess(hour), centres["lat"], centres["lon"])
        moved = haversine(*track.position(), centres["lat"], centres["lon"])
        reach = criteria.range_deg * KM_PER_DEGREE / RANGE_HOURS
        fits = (away <= reach * step) & (moved <= reach * (hour - track.hours[-1]))
        cost[i, fits] = away[fits]
    rows, columns = linear_sum_assignment(cost)
    return [(tracks[i], int(k)) for i, k in zip(rows, columns, strict=True) if cost[i, k] < FAR]
