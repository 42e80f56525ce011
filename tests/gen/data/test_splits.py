"""No information leaks between splits, and no window crosses what it must not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gen.data.splits import Segments, TimeSplit, check_splits, windows

HOURS = np.datetime64("2020-01-01", "h").astype(np.int64) + 6 * np.arange(400)  # 100 days
TRAIN, VALID = TimeSplit("2020-01-01", "2020-02-20"), TimeSplit("2020-03-05", "2020-04-01")


def test_splits_that_are_apart_pass() -> None:
    """Two weeks between training and validation are enough."""
    check_splits({"train": TRAIN, "valid": VALID}, hours=HOURS)


@pytest.mark.parametrize(
    ("begin", "message"),
    [("2020-02-19", "overlaps"), ("2020-02-22", "leaks"), ("2021-01-01", "holds no data")],
)
def test_leaks_are_refused(begin: str, message: str) -> None:
    """Overlap, too small a gap and an empty split each have their message, whatever the order of the splits."""
    splits = {"valid": TimeSplit(begin, "2021-02-01"), "train": TRAIN}
    with pytest.raises(ValueError, match=message):
        check_splits(splits, hours=HOURS)


def test_a_segment_boundary_separates() -> None:
    """Neighbouring days of different segments are independent: no gap is needed."""
    boundary = Segments(((0, 200), (200, 400)))  # 20 February
    splits = {"train": TRAIN, "valid": TimeSplit("2020-02-20", "2020-04-01")}
    check_splits(splits, hours=HOURS, segments=boundary)
    with pytest.raises(ValueError, match="leaks"):
        check_splits(splits, hours=HOURS, segments=Segments(((0, 196), (196, 400))))


@given(
    frames=st.integers(1, 12),
    stride=st.integers(1, 3),
    cut=st.integers(1, 199),
    lost=st.integers(1, 198),
)
def test_windows_are_just_those_found_one_by_one(frames: int, stride: int, cut: int, lost: int) -> None:
    """With a segment boundary and a missing time the windows equal those of a plain search."""
    hours = np.delete(HOURS[:200], lost)
    segments = Segments(((0, cut), (cut, 199)))
    split = TimeSplit("2020-01-03", "2020-02-10")
    first, stop = split.hours
    wanted = []
    for i in range(len(hours)):
        index = [i + k * stride for k in range(frames)]
        if index[-1] >= len(hours):
            continue
        steps = np.diff(hours[index])
        one_segment = (index[0] < cut) == (index[-1] < cut)
        if (steps == 6 * stride).all() and one_segment and first <= hours[i] and hours[index[-1]] < stop:
            wanted.append(i)
    try:
        found = windows(hours, split, frames, step_hours=6 * stride, segments=segments).tolist()
    except ValueError:
        found = []
    assert found == wanted


def test_impossible_intervals_are_refused() -> None:
    """A malformed date, an empty interval and a window longer than the data."""
    for begin, end, message in (("2020-13-01", "2021-01-01", "no date"), ("2021-01-01", "2020-01-01", "begin < end")):
        with pytest.raises(ValueError, match=message):
            TimeSplit(begin, end)
    with pytest.raises(ValueError, match="in a row"):
        windows(HOURS, TimeSplit("2020-01-01", "2020-01-02"), 5)
