"""Time splits of a data set, checked for leakage, and the windows that lie inside them.

Neighbouring atmospheric states are nearly the same, so intervals for training, validation and testing must be apart by
more than the memory of the atmosphere. A simulated world consists of segments, independent atmospheres that follow one
another on the calendar only: a boundary between segments separates like any gap, and no window may cross it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Segments", "TimeSplit", "check_splits", "windows"]

import numpy as np
from numpy.typing import NDArray

GAP_HOURS = 10 * 24


@dataclass(frozen=True)
class TimeSplit:
    """A half-open interval [begin, end) of the calendar, ISO dates.

    Raises:
        ValueError: when a date cannot be read or the interval is empty.
    """

    begin: str
    end: str

    def __post_init__(self) -> None:
        """Check the dates."""
        for text in (self.begin, self.end):
            try:
                np.datetime64(text, "h")
            except ValueError:
                raise ValueError(f"{text!r} is no date; write 2020-01-31 or 2020-01-31T06") from None
        if self.hours[0] >= self.hours[1]:
            raise ValueError(f"a split needs begin < end; got [{self.begin}, {self.end})")

    @property
    def hours(self) -> tuple[int, int]:
        """Return begin and end in hours since 1970-01-01."""
        first, stop = (int(np.datetime64(t, "h").astype(np.int64)) for t in (self.begin, self.end))
        return first, stop

    def inside(self, hours: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which of the times (hours since 1970-01-01) lie in the interval."""
        first, stop = self.hours
        return (hours >= first) & (hours < stop)


@dataclass(frozen=True)
class Segments:
    """Independent stretches of a world, as index ranges [first, stop) of its time axis, ascending."""

    ranges: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, path: str | Path) -> Segments:
        """Read the segments of a Zarr world; one that states none is a single segment."""
        import zarr

        group: Any = zarr.open_group(str(path), mode="r")
        stated = group.attrs.get("segments")
        if stated is None:
            return cls(((0, int(group["time"].shape[0])),))
        return cls(tuple((int(s["first"]), int(s["stop"])) for s in stated))

    def number(self, index: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the segment of each time index."""
        return np.searchsorted([stop for _, stop in self.ranges], index, side="right").astype(np.int64)


def check_splits(
    splits: Mapping[str, TimeSplit],
    *,
    gap_hours: int = GAP_HOURS,
    hours: NDArray[np.int64] | None = None,
    segments: Segments | None = None,
) -> None:
    """Refuse splits through which information leaks.

    Args:
        splits: intervals by name.
        gap_hours: least distance between the last time of one and the first of the next.
        hours: the times of the data, hours since 1970-01-01; with them distances are those of existing times.
        segments: independent stretches; two splits whose neighbouring times lie in different ones need no gap.

    Raises:
        ValueError: when two splits overlap or are too close, or one holds no data.
    """
    ordered = sorted(splits.items(), key=lambda item: item[1].hours)
    for name, split in ordered:
        if hours is not None and not split.inside(hours).any():
            span = " to ".join(str(np.datetime64(int(h), "h")) for h in hours[[0, -1]])
            raise ValueError(f"{name} [{split.begin}, {split.end}) holds no data; the data cover {span}")
    for (name, split), (later, other) in zip(ordered, ordered[1:], strict=False):
        if other.hours[0] < split.hours[1]:
            raise ValueError(f"{name} [{split.begin}, {split.end}) overlaps {later} [{other.begin}, {other.end})")
        distance, apart = _distance(split, other, hours, segments)
        if not apart and distance < gap_hours:
            raise ValueError(
                f"{name} and {later} are {distance} h apart, less than {gap_hours} h: information leaks; "
                "leave a gap or cut at a segment boundary"
            )


def windows(
    hours: NDArray[np.int64],
    split: TimeSplit,
    frames: int,
    *,
    step_hours: int | None = None,
    segments: Segments | None = None,
) -> NDArray[np.int64]:
    """Return the first index of every window of `frames` times that is complete.

    A window lies inside the split and inside one segment, and its times are `step_hours` apart (default: the smallest
    distance in the data).

    Raises:
        ValueError: when there is none.
    """
    spacing = int(np.diff(hours).min()) if step_hours is None else step_hours
    stride = step_hours // int(np.diff(hours).min()) if step_hours else 1
    reach = (frames - 1) * stride
    start = np.arange(max(0, len(hours) - reach), dtype=np.int64)
    inside = split.inside(hours)
    good = inside[start] & inside[start + reach] & (hours[start + reach] - hours[start] == spacing * (frames - 1))
    if segments is not None:
        good &= segments.number(start) == segments.number(start + reach)
    if not good.any():
        raise ValueError(f"[{split.begin}, {split.end}) holds no {frames} times in a row, {spacing} h apart")
    return start[good]


def _distance(
    split: TimeSplit, other: TimeSplit, hours: NDArray[np.int64] | None, segments: Segments | None
) -> tuple[int, bool]:
    """Return the hours between two splits, and whether a segment boundary lies between them."""
    if hours is None:
        return other.hours[0] - split.hours[1], False
    last = int(np.flatnonzero(split.inside(hours))[-1])
    first = int(np.flatnonzero(other.inside(hours))[0])
    numbers: Sequence[int] = [0, 0] if segments is None else segments.number(np.array([last, first])).tolist()
    return int(hours[first] - hours[last]), numbers[0] != numbers[1]
