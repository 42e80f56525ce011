"""gen sample, through the real command line: identical bits whatever the ensemble, the block, the part, the format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import xarray as xr
from gen_sampling import INIT, LEAD, MEMBER, draw, same_bits


def test_member_seven_of_eight_and_of_twenty(workshop: Path, eight: xr.Dataset, tmp_path: Path) -> None:
    """Every member of the small ensemble has the same bits in the large one; no member is another one."""
    twenty = draw(workshop, tmp_path / "twenty.nc", members=20)
    assert same_bits(twenty.isel({MEMBER: [7]}), eight.isel({MEMBER: [7]}))
    assert same_bits(twenty.isel({MEMBER: slice(8)}), eight)
    assert len({member.tobytes() for member in twenty["2m_temperature"].values}) == 20


def test_the_default_precision_keeps_the_bits_too(workshop: Path, tmp_path: Path) -> None:
    """With the precision that the machine chooses, member 5 of 6 (in a padded block) is member 5 of 8."""
    six = draw(workshop, tmp_path / "six.nc", members=6, dtype=None, lead="12h")
    more = draw(workshop, tmp_path / "more.nc", members=8, dtype=None, lead="12h")
    assert same_bits(more.isel({MEMBER: slice(6)}), six)


@pytest.mark.parametrize("size", [3, "auto"])
def test_another_block_size_is_equal_to_rounding(
    workshop: Path, eight: xr.Dataset, tmp_path: Path, size: int | str
) -> None:
    """Fields agree to 1e-4 of their standard deviation in space; the block size stands in the file."""
    other = draw(workshop, tmp_path / "other.nc", batch=size)
    assert other.attrs["members_per_block"] == {3: "3", "auto": "8"}[size] and eight.attrs["members_per_block"] == "4"
    for name, values in eight.data_vars.items():
        scale = values.std(("latitude", "longitude")).mean((MEMBER, INIT, LEAD))
        assert float((abs(other[name] - values) / scale).max()) < 1e-4


def test_seeds(workshop: Path, eight: xr.Dataset, tmp_path: Path) -> None:
    """The same seed changes nothing, another one every variable of every member."""
    assert same_bits(draw(workshop, tmp_path / "again.nc", seed=0), eight)
    other = draw(workshop, tmp_path / "other.nc", seed=1)
    for name, values in eight.data_vars.items():
        assert bool((other[name] != values).any([d for d in values.dims if d != MEMBER]).all())
    assert (other.attrs["seed"], eight.attrs["seed"]) == ("1", "0")


def test_a_part_is_a_part_of_the_whole(workshop: Path, eight: xr.Dataset, tmp_path: Path) -> None:
    """Variables, levels, region, step and lead select; they never change a bit."""
    part = draw(
        workshop, tmp_path / "part.nc", variables="geopotential,2t,q850", levels=850, region="-35,60,-40,50",
        step="12h", lead="12h", members=5,
    )  # fmt: skip
    assert set(part.data_vars) == {"geopotential", "2m_temperature", "specific_humidity"}
    assert part["level"].values.tolist() == [850] and part.sizes[LEAD] == 1
    assert part["longitude"].values[0] < 0 and part["latitude"].values.min() >= -35
    columns = part["longitude"].values % 360
    expected = eight[list(part.data_vars)].sel(level=[850], latitude=part["latitude"], longitude=columns)
    expected = expected.isel({MEMBER: slice(5), LEAD: [1]}).assign_coords(longitude=part["longitude"])
    assert same_bits(part.drop_attrs(), expected.drop_attrs())


def test_a_longer_lead_keeps_the_bits(workshop: Path, eight: xr.Dataset, tmp_path: Path) -> None:
    """Thirty hours begin like one day, and eighteen hours are its first three quarters."""
    longer = draw(workshop, tmp_path / "longer.nc", lead="30h")
    assert same_bits(longer.isel({LEAD: slice(4)}), eight)
    shorter = draw(workshop, tmp_path / "shorter.nc", lead="18h")
    assert same_bits(shorter, eight.isel({LEAD: slice(3)}))


@pytest.mark.parametrize(
    ("wish", "name"), [({"format": "zarr"}, "f.zarr"), ({"init": "2020-01-02,2020-01-03"}, "f.nc")]
)
def test_formats_and_further_starts_keep_the_bits(
    workshop: Path, eight: xr.Dataset, tmp_path: Path, wish: dict[str, Any], name: str
) -> None:
    """A Zarr store and a file with two starts hold the fields of the NetCDF file with one."""
    got = draw(workshop, tmp_path / name, **wish)
    assert same_bits(got.isel({INIT: [0]}), eight)


def test_rain_is_never_negative(eight: xr.Dataset) -> None:
    """The physical limit is applied to precipitation, and some of it is exactly zero."""
    rain = eight["total_precipitation_6hr"].values
    assert rain.min() == 0 and rain.max() > 0 and eight["specific_humidity"].values.min() >= 0


def test_the_file_says_what_it_is(eight: xr.Dataset) -> None:
    """Model, source, sampler, seed and hashes stand in the attributes, and that the world is simulated."""
    for key in (
        "model",
        "model_hash",
        "config_hash",
        "sampler",
        "seed",
        "gen_version",
        "members_per_block",
        "analysis",
    ):
        assert eight.attrs[key]
    assert eight.attrs["warning"] == "a forecast of a simulated world, not of the real atmosphere"


def test_members_of_several_starts_in_one_block(workshop: Path, eight: xr.Dataset, tmp_path: Path) -> None:
    """Three members of two starts fill a block of four and half a second: the bits of each start alone."""
    both = draw(workshop, tmp_path / "both.nc", init="2020-01-02,2020-01-03", members=3)
    assert same_bits(both.isel({INIT: [0]}), eight.isel({MEMBER: slice(3)}))
    assert same_bits(both.isel({INIT: [1]}), draw(workshop, tmp_path / "second.nc", init="2020-01-03", members=3))


def test_packing_changes_bits_only_where_it_says(workshop: Path, eight: xr.Dataset, tmp_path: Path) -> None:
    """ "none" is "fast" bit for bit; "small" rounds, says so and takes less space than "none"."""
    assert same_bits(draw(workshop, tmp_path / "none.nc", compress="none"), eight)
    small = draw(workshop, tmp_path / "small.nc", compress="small")
    assert not same_bits(small, eight)
    assert (tmp_path / "small.nc").stat().st_size < (tmp_path / "none.nc").stat().st_size
