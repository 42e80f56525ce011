"""Starting a forecast from ERA5: local stores with the layouts of the public ones give all channels, or one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gen.data.era5 import GRID, Era5Request, make_era5
from gen.data.reader import StoreReader
from gen.data.sources import SourceError, open_source
from gen.data.synthetic import analytic_states, era5_like
from gen.data.variables import LADCAST_CHANNELS, Channel, make_channels, parse_channel
from gen.grid import LatLonGrid

COUNT = 7
SST, RAIN = 82, 83
NOW = np.datetime64("2020-01-01T06", "h")
FINE = LatLonGrid.equiangular(721, 1440, poles=True)


@pytest.fixture(scope="module")
def wb2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a store with everything: 84 channels, of which rain in hourly totals, and the static fields."""
    return era5_like(tmp_path_factory.mktemp("source") / "wb2.zarr", "wb2", count=COUNT)


@pytest.fixture(scope="module")
def arco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return four maps on the 721 x 1440 grid, with two of three times stated to be valid."""
    names = ("temperature", "2m_temperature", "sea_surface_temperature")
    path = tmp_path_factory.mktemp("source") / "arco.zarr"
    return era5_like(path, "arco", grid=FINE, names=names, levels=(500,), count=1, unused=1, start="2020-01-01T06")


def test_a_weatherbench_store_gives_all_channels(wb2: Path) -> None:
    """84 maps on 121 x 240 at the exact time; NaN in the sea surface only, over land; rain of the six hours before.

    Tolerance: float32; for rain six roundings of hourly totals.
    """
    source = open_source(wb2)
    assert source.missing(LADCAST_CHANNELS) == () and source.grid == GRID
    field = source.read(NOW, LADCAST_CHANNELS, GRID)
    assert field.values.shape == (84, 121, 240) and field.channels == LADCAST_CHANNELS
    assert field.coords["time"] == NOW and str(source.times()[0]) == "2020-01-01T00"
    assert [i for i, v in enumerate(field.values) if bool(v.isnan().any())] == [SST]
    land = source.static([Channel("land_sea_mask")]).values[0] > 0.5  # type: ignore[attr-defined]
    assert torch.equal(field.values[SST].isnan(), land)
    hours = NOW.astype(int) + np.arange(-5, 1)
    exact = torch.from_numpy(analytic_states(LADCAST_CHANNELS[:SST], GRID, hours[-1:])[0])
    torch.testing.assert_close(field.values[:SST], exact, rtol=1e-6, atol=1e-6)
    hourly = torch.from_numpy(analytic_states(LADCAST_CHANNELS[RAIN:], GRID, hours)[:, 0]).double() / 6 - 1e-9
    rain = hourly.sum(0).clamp(min=0)
    torch.testing.assert_close(field.values[RAIN].double(), rain, rtol=1e-6, atol=5e-10)


def test_training_and_starting_read_the_same_states(wb2: Path, tmp_path: Path) -> None:
    """The reader of training data and the copy on disk give the start state's bits."""
    start = open_source(wb2).read(NOW, LADCAST_CHANNELS, GRID).values.nan_to_num()
    reader = StoreReader(wb2, LADCAST_CHANNELS)
    torch.testing.assert_close(reader.read(slice(1, 2))[0].nan_to_num(), start, rtol=1e-6, atol=1e-9)
    out = make_era5(Era5Request(str(wb2), tmp_path / "o.zarr"))
    copy = open_source(out).read(NOW, LADCAST_CHANNELS, GRID).values.nan_to_num()
    torch.testing.assert_close(copy, start, rtol=1e-6, atol=1e-9)
    assert torch.equal(copy[:RAIN], start[:RAIN])


def test_an_arco_store_gives_area_means(arco: Path) -> None:
    """From north-to-south 0.25 degrees: the global mean is kept to 1e-6, NaN stays in the sea surface only.

    The unused times before and after, which hold NaN, are not offered.
    """
    source = open_source(arco)
    assert source.grid == FINE and source.times().astype(str).tolist() == ["2020-01-01T06"]
    channels = tuple(parse_channel(c) for c in ("t500", "2t", "sst"))
    field = source.read(NOW, channels, GRID)
    assert field.values.shape == (3, 121, 240)
    assert [bool(v.isnan().any()) for v in field.values] == [False, False, True]
    exact = analytic_states(channels[:2], FINE, [int(NOW.astype(int))])[0].astype(np.float64)
    for before, after in zip(exact, field.values[:2].double().numpy(), strict=True):
        mean = (before * FINE.area_weights()).sum()
        assert (after * GRID.area_weights()).sum() == pytest.approx(mean, rel=1e-6)
    smooth = torch.from_numpy(analytic_states(channels[:2], GRID, [int(NOW.astype(int))])[0])
    assert float((field.values[:2] - smooth)[:, 1:-1].abs().max()) < 0.1  # K: the waves are curved over a cell


@pytest.mark.parametrize(
    ("time", "channels", "message"),
    [
        ("2020-01-02T00", "2t", "has no data for 2020-01-02T00; the nearest time is 2020-01-01T06"),
        ("1959-01-01T00", "2t", "has no data for 1959-01-01T00; the nearest time is 2020-01-01T00"),
        ("2020-01-01T04", "tp06", "at 2020-01-01T04 needs the hourly totals of 2019-12-31T23"),
        ("2020-01-01T06", "z500,z10", "lacks z at 10 hPa; it has z, q, t, u, v, w at 50/100/.../1000 (13 levels) hPa"),
    ],
)
def test_what_cannot_be_had_is_one_line(wb2: Path, time: str, channels: str, message: str) -> None:
    """A date outside the store, rain without its hours, and channels it lacks, with those it has."""
    wanted = [parse_channel(c) for c in channels.split(",")]
    with pytest.raises(SourceError) as caught:
        open_source(wb2).read(np.datetime64(time, "h"), wanted, GRID)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_box_is_no_start_state(tmp_path: Path) -> None:
    """A store of Europe names the part that it covers, for a forecast and for a training store."""
    box = LatLonGrid(np.arange(30.0, 70.0, 0.5), np.arange(0.0, 40.0, 0.5))
    tiny: Any = {"grid": box, "names": ("2m_temperature",), "count": 7}
    path = era5_like(tmp_path / "europe.zarr", "arco", **tiny)
    with pytest.raises(SourceError, match="cover 29.8 to 69.8 N.*121x240 grid"):
        open_source(path).read(NOW, make_channels(["2m_temperature"], []), GRID)
    request = Era5Request(str(path), tmp_path / "o.zarr", channels=make_channels(["2m_temperature"], []))
    with pytest.raises(SourceError, match="grid, coarser than the 121x240 grid"):
        make_era5(request)
    assert not (tmp_path / "o.zarr").exists()
