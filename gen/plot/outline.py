"""The coastline: Natural Earth 110 m (public domain), shipped with the package, so that maps need no network.

`make_outline` in this package makes the data file.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = ["coastline"]

DATA = Path(__file__).parent / "data" / "outline.npz"
STEPS_PER_DEGREE = 100


def coastline(west: float = -180.0) -> list[NDArray[np.float64]]:
    """Return polylines [n, 2] of (longitude, latitude) with longitudes in [west, west + 360].

    A line that crosses the meridian `west` is cut there, both ends reaching it exactly.
    """
    lines: list[NDArray[np.float64]] = []
    for line in _lines():
        lines.extend(_cut(line, west))
    return lines


@cache
def _lines() -> tuple[NDArray[np.float64], ...]:
    with np.load(DATA) as stored:
        points = stored["points"].astype(np.float64) / STEPS_PER_DEGREE
        return tuple(np.split(points, np.cumsum(stored["lengths"].astype(np.int64))[:-1]))


def _cut(line: NDArray[np.float64], west: float) -> list[NDArray[np.float64]]:
    """Unroll a line, then cut it wherever it leaves the window that it is in."""
    steps = (np.diff(line[:, 0]) + 180.0) % 360.0 - 180.0
    longitude = line[0, 0] + np.concatenate([[0.0], np.cumsum(steps)])
    turn = np.floor((longitude - west) / 360.0)
    parts, current = [], [(longitude[0] - 360.0 * turn[0], line[0, 1])]
    for k in range(1, len(line)):
        if turn[k] != turn[k - 1]:
            edge = west + 360.0 * max(turn[k], turn[k - 1])
            share = (edge - longitude[k - 1]) / (longitude[k] - longitude[k - 1])
            latitude = line[k - 1, 1] + share * (line[k, 1] - line[k - 1, 1])
            current.append((edge - 360.0 * turn[k - 1], latitude))
            parts.append(current)
            current = [(edge - 360.0 * turn[k], latitude)]
        current.append((longitude[k] - 360.0 * turn[k], line[k, 1]))
    parts.append(current)
    return [np.asarray(part) for part in parts if len(part) > 1]
