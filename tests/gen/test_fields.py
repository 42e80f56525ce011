"""Values keep their channels and coordinates on every way."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gen.data.variables import make_channels, parse_channel
from gen.fields import Field
from gen.grid import LatLonGrid, Region

CHANNELS = make_channels(["geopotential", "2m_temperature", "temperature"], [850, 500])


def make(*leading: int) -> Field:
    grid = LatLonGrid.gaussian(8, 16)
    dims = ("number", "time")[: len(leading)]
    values = torch.rand(*leading, len(CHANNELS), 8, 16, generator=torch.Generator().manual_seed(0))
    return Field(values, CHANNELS, grid, dims, {"number": np.arange(3)} if leading else {})


@pytest.mark.parametrize("leading", [(), (3,), (3, 2)])
def test_a_round_trip_through_xarray_returns_the_values(leading: tuple[int, ...]) -> None:
    """Dataset and back: the same bits, channels, dims and coordinates."""
    field = make(*leading)
    back = Field.from_xarray(field.to_xarray(), CHANNELS)
    assert torch.equal(back.values, field.values)
    assert back.dims == field.dims and back.grid == field.grid
    assert all(np.array_equal(back.coords[k], v) for k, v in field.coords.items())


def test_the_order_of_axes_in_a_dataset_does_not_matter() -> None:
    """North-to-south rows and (longitude, latitude, time) order give the same field."""
    field = make(3)
    turned = field.to_xarray().isel(latitude=slice(None, None, -1)).transpose("longitude", "latitude", ...)
    assert torch.equal(Field.from_xarray(turned, CHANNELS).values, field.values)


def test_a_dataset_says_what_it_holds() -> None:
    """Units, CF standard names and the level axis stand in the Dataset."""
    dataset = make().to_xarray()
    assert dataset["geopotential"].attrs["units"] == "m2 s-2"
    assert dataset["2m_temperature"].attrs["standard_name"] == "air_temperature"
    assert dataset["level"].values.tolist() == [500, 850]


def test_selecting_channels_and_a_box() -> None:
    """Channels come in the order asked, the box with its own grid."""
    field = make(3)
    part = field.select([parse_channel("t500"), parse_channel("2t")], Region(0, 90, -45, 45))
    rows, columns = field.grid.indices(Region(0, 90, -45, 45))
    expected = field.values[:, [CHANNELS.index(c) for c in part.channels]][:, :, rows][..., columns]
    assert torch.equal(part.values, expected)
    assert part.grid.longitude[0] == -45.0


def test_missing_channels_and_wrong_shapes_are_refused() -> None:
    """The message names what is missing and what is there."""
    field = make()
    with pytest.raises(ValueError, match="no q500; the field has z500"):
        field.select([parse_channel("q500")])
    with pytest.raises(ValueError, match="levels are"):
        Field.from_xarray(field.to_xarray(), [parse_channel("z300")])
    with pytest.raises(ValueError, match="dataset has no mean_sea_level_pressure"):
        Field.from_xarray(field.to_xarray().rename({"2m_temperature": "x"}), [parse_channel("msl")])
    with pytest.raises(ValueError, match="cannot have shape"):
        Field(field.values[:2], CHANNELS, field.grid)
    with pytest.raises(ValueError, match="coordinates"):
        Field(field.values[None], CHANNELS, field.grid, ("number",), {"number": np.arange(4)})
