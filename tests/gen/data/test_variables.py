"""Names of channels are read back as they are written, and misread names get a hint."""

from __future__ import annotations

import pytest

from gen.data.variables import VARIABLES, Channel, make_channels, parse_channel


@pytest.mark.parametrize("name", VARIABLES)
def test_a_code_names_its_channel(name: str) -> None:
    """`parse_channel` inverts `code` and reads the long name, for every variable of the table."""
    channel = Channel(name, 500 if VARIABLES[name].kind == "upper" else None)
    assert parse_channel(channel.code) == channel
    assert parse_channel(name + ("@500" if channel.level else "")) == channel


def test_codes_are_those_of_the_field() -> None:
    """Upper-air codes are short name and level, surface codes the ECMWF short names; aliases are understood."""
    channels = make_channels(["2m_temperature", "geopotential", "total_precipitation_6hr"], [850, 500])
    assert [c.code for c in channels] == ["z500", "z850", "2t", "tp06"]
    assert parse_channel("t2m") == parse_channel("2t") and parse_channel("u10").code == "10u"


def test_channels_sort_by_variable_then_level() -> None:
    """Sorting mixes neither variables nor levels, whatever the start."""
    channels = [parse_channel(c) for c in ("msl", "t850", "z850", "t500", "z500", "10u")]
    assert [c.code for c in sorted(channels)] == ["z500", "z850", "t500", "t850", "10u", "msl"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("geopotental@500", "did you mean geopotential"),
        ("z", "needs a pressure level"),
        ("2t@500", "has no levels"),
        ("xyz", "unknown channel"),
        ("z5000", "1 to 1100"),
        ("msll", "did you mean msl"),
    ],
)
def test_unknown_channels_are_refused(text: str, message: str) -> None:
    """The message names the rule or the nearest name."""
    with pytest.raises(ValueError, match=message):
        parse_channel(text)
