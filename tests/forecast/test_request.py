"""forecast.request: what a person types is understood or refused in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecast.request import ForecastRequest, parse_date, parse_duration, parse_inits


@given(st.integers(1, 100_000))
def test_hours_and_days_are_the_same_time(hours: int) -> None:
    """ "48h", "48" and "2d" are 48 hours, whatever the number."""
    assert parse_duration(f"{hours}h") == parse_duration(str(hours)) == parse_duration(f" {hours} hours ") == hours
    assert parse_duration(f"{hours}d") == parse_duration(f"{hours} days") == 24 * hours


@pytest.mark.parametrize("text", ["", "d", "10x", "-1d", "0h", "0d", "1.3h", "ten days", "1e3h", "10d 6h"])
def test_a_wrong_duration_names_itself(text: str) -> None:
    """Zero, signs, fractions of hours and other units are refused with the option's name and the text."""
    with pytest.raises(ValueError, match="^lead must") as caught:
        parse_duration(text, "lead")
    assert repr(text) in str(caught.value) and "\n" not in str(caught.value)
    assert parse_duration("1.5d") == 36


@pytest.mark.parametrize(
    "text",
    ["2024-01-01T06", "2024-01-01 06", "2024-01-01T06:00", "2024-01-01T0600", "2024-01-01T06Z", "2024-01-01 06Z"],
)
def test_ways_to_write_a_time(text: str) -> None:
    """ISO 8601 with blank or T, with or without minutes, colon and Z, is the same hour."""
    assert parse_date(text) == np.datetime64("2024-01-01T06", "h")
    assert parse_date(" 2024-01-01 ") == np.datetime64("2024-01-01T00", "h")


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("yesterday", "must be a date like"),
        ("2024-1-1", "must be a date like"),
        ("20240101", "must be a date like"),
        ("2024-02-30", "not a date of the calendar"),
        ("2024-13-01", "not a date of the calendar"),
        ("2024-01-01T25", "not a date of the calendar"),
        ("2024-01-01T06:30", "whole hour"),
    ],
)
def test_a_malformed_date_is_refused(text: str, rule: str) -> None:
    """The message holds the text and the rule."""
    with pytest.raises(ValueError, match=rule) as caught:
        parse_date(text)
    assert text in str(caught.value)


def test_lists_and_ranges_of_starts() -> None:
    """Both ends of a range count, its step defaults to a day, starts come sorted and once."""
    starts = parse_inits(["2024-01-03", "2024-01-01..2024-01-02T12/12h", "2024-01-01"])
    expected = ["2024-01-01T00", "2024-01-01T12", "2024-01-02T00", "2024-01-02T12", "2024-01-03T00"]
    assert starts.astype(str).tolist() == expected
    assert parse_inits(["2024-01-01..2024-01-31"]).size == 31
    for wrong, rule in (("2024-01-02..2024-01-01", "ends before"), ("2024-01-01..2024-01-02/0h", "step of init")):
        with pytest.raises(ValueError, match=rule):
            parse_inits([wrong])
    with pytest.raises(ValueError, match="init is missing"):
        parse_inits([])


@pytest.mark.parametrize(
    ("wish", "rule"),
    [
        ({"members": 0}, "members must be at least 1; got 0"),
        ({"seed": -1}, "seed must be at least 0; got -1"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"batch": 0}, "batch must be at least 1"),
        ({"batch": "many"}, "batch must be a positive number"),
        ({"lead": "25h", "step": "6h"}, "lead 25h is not a multiple of step 6h"),
        ({"lead": "-3d"}, "lead must look like"),
        ({"step": "6 parsecs"}, "step must look like"),
        ({"region": "10,20,30"}, "region must be four numbers"),
        ({"region": "80,100,0,10"}, "-90 <= south < north <= 90"),
        ({"format": "csv"}, "format must be one of netcdf, zarr, latent; got 'csv'"),
        ({"layout": "odd"}, "layout must be one of"),
        ({"dtype": "float16"}, "dtype must be one of"),
        ({"init": ("never",)}, "init must be a date"),
    ],
)
def test_a_request_out_of_range_is_refused_before_anything_is_opened(wish: dict[str, Any], rule: str) -> None:
    """Every option has its rule, and the message its value, in one line."""
    with pytest.raises(ValueError, match=rule) as caught:
        ForecastRequest(**{"init": ("2024-01-01",), **wish})
    assert "\n" not in str(caught.value)


def test_the_file_is_named_after_the_start() -> None:
    """Without --out the first start and the format name the file."""
    request = ForecastRequest(init=("2024-01-02", "2024-01-01T06"))
    assert request.path == Path("forecast_2024010106.nc") and request.lead_hours == 240
    assert ForecastRequest(init=("2024-01-01",), format="zarr").path == Path("forecast_2024010100.zarr")
    assert ForecastRequest(init=("2024-01-01",), out=Path("a.nc")).path == Path("a.nc")
