"""Real ERA5 files give start states, or say in one line what they lack."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from gen.data.sources import SourceError, open_source
from gen.data.variables import Channel, make_channels
from gen.fields import Field
from gen.grid import LatLonGrid

UPPER = ("geopotential", "temperature", "u_component_of_wind", "v_component_of_wind", "specific_humidity")
WINDS = ("10m_u_component_of_wind", "10m_v_component_of_wind")
SURFACE = (*WINDS, "2m_temperature", "mean_sea_level_pressure", "surface_pressure", "total_precipitation_6hr")
CHANNELS = make_channels([*UPPER, *SURFACE], [100, 250, 500, 700, 850])
GRID = LatLonGrid.gaussian(48, 96)
START = np.datetime64("1959-01-02T00")
FILE = "era5_tl31_19590102T00.nc"


@pytest.fixture(scope="module")
def era5(shared: Path) -> Path:
    """Return the folder of real analyses."""
    return shared / "data" / "era5"


def orography() -> Field:
    """Return a plateau of 3 km over Asia, zero elsewhere."""
    lat, lon = GRID.latitude[:, None], GRID.longitude[None, :]
    high = (abs(lat - 33) < 5) & (abs(lon - 90) < 12)
    values = torch.from_numpy(np.where(high, 3000 * 9.80665, 0.0)).float()
    return Field(values[None], (Channel("geopotential_at_surface"),), GRID)


def test_the_real_state_of_1959_is_a_start_state(era5: Path) -> None:
    """All channels of the demo come on its grid, with global means of the real atmosphere in January.

    Ranges: observed climate (2 m temperature 285 K, sea level pressure 1011 hPa, surface pressure 985 hPa over real
    orography, more over this flat one), each within what one day and a flat orography change.
    """
    source = open_source(era5 / FILE, fill={"tp06": 0.0}, orography=orography())
    field = source.read(START, CHANNELS, GRID)
    assert field.values.shape == (len(CHANNELS), 48, 96) and bool(field.values.isfinite().all())
    area = torch.from_numpy(GRID.area_weights()).float()
    mean = {c.code: float((v * area).sum()) for c, v in zip(CHANNELS, field.values, strict=True)}
    ranges = {"z500": (54000, 56500), "t850": (276, 282), "2t": (283, 290), "msl": (100900, 101400)}
    for code, (low, high) in ranges.items():
        assert low < mean[code] < high
    plateau = (np.abs(GRID.latitude - 33).argmin(), np.abs(GRID.longitude - 90).argmin())
    pressure = {c.code: float(v[plateau]) for c, v in zip(CHANNELS, field.values, strict=True)}
    assert 66000 < pressure["sp"] < 73000  # 3 km
    assert pressure["msl"] > 100000
    text = " ".join(source.notes)
    assert all(code in text for code in ("10u", "10v", "2t", "msl", "sp", "tp06"))


def test_upper_air_means_are_those_of_the_file(era5: Path) -> None:
    """Regridding to the finer grid keeps the area means of the file, read here without this package's sources."""
    import xarray as xr

    field = open_source(era5 / FILE).read(START, make_channels(UPPER, [500]), GRID)
    with xr.open_dataset(era5 / FILE) as ds:
        grid = LatLonGrid(ds["latitude"].values, ds["longitude"].values)
        for channel, values in zip(field.channels, field.values.double().numpy(), strict=True):
            stored = ds[channel.name].sel(level=500).transpose("latitude", "longitude").values.astype(float)
            before, after = (stored * grid.area_weights()).sum(), (values * GRID.area_weights()).sum()
            assert after == pytest.approx(before, rel=1e-6, abs=1e-7)


def test_what_the_file_lacks_is_said(era5: Path) -> None:
    """Without orography and fill value the missing channels, the reason and the present ones stand in one line."""
    source = open_source(era5 / FILE)
    assert [c.code for c in source.missing(CHANNELS)] == ["10u", "10v", "2t", "sp", "tp06"]
    message = "lacks 10u, 10v, 2t, sp, tp06 .*orography.*it has z, q, t, u, v at"
    with pytest.raises(SourceError, match=message) as caught:
        source.read(START, CHANNELS, GRID)
    assert "\n" not in str(caught.value)
    with pytest.raises(SourceError, match="nearest time is 1959-01-02T00"):
        source.read(np.datetime64("1959-01-03"), CHANNELS[:1], GRID)


def test_ten_members_are_ten_states(era5: Path) -> None:
    """The ensemble GRIB has ten distinct members that agree to a few hundred m2 s-2 at 500 hPa, and not the demo."""
    pytest.importorskip("cfgrib", reason="GRIB needs the extra `grib`")
    source = open_source(era5 / "era5-levels-members.grib")
    assert source.members == 10
    channels = make_channels(["geopotential", "temperature"], [500, 850])
    time = source.times()[-1]
    states = torch.stack([source.read(time, channels, GRID, member=k).values for k in range(10)])
    spread = states[:, 0].std(0)
    assert float(spread.min()) > 0 and float(spread.mean()) < 300
    assert len({float(s[0, 20, 30]) for s in states}) == 10
    with pytest.raises(SourceError, match="u, v, q at 100/250/500/700/850 hPa; 10u.*it has z, t at 500/850 hPa"):
        source.read(time, CHANNELS, GRID)


def test_humidity_from_relative_humidity(era5: Path) -> None:
    """The IFS file with relative humidity gives specific humidity of plausible size, falling with height."""
    pytest.importorskip("cfgrib", reason="GRIB needs the extra `grib`")
    source = open_source(era5 / "pl_regular_ll.grib")
    field = source.read(source.times()[0], make_channels(["specific_humidity"], [300, 500, 850, 1000]))
    means = field.values.mean((1, 2))
    assert bool((means.diff() > 0).all()) and 5e-3 < float(means[-1]) < 1.5e-2
    assert any("relative humidity" in note for note in source.notes)


@pytest.mark.parametrize(
    ("name", "message"),
    [("hgt.nc", "months since 1958"), ("NCEP_06_climo.nc", "no dates"), ("eraint_uvz.nc", "no times at all")],
)
def test_files_without_dates_are_refused(era5: Path, name: str, message: str) -> None:
    """Monthly numbers and climatologies are no analyses."""
    with pytest.raises(SourceError, match=message):
        source = open_source(era5 / name)
        source.read(START, make_channels(["geopotential"], [500]))


def test_a_truncated_grib_is_refused(era5: Path, tmp_path: Path) -> None:
    """Half of a GRIB file is one clear line, not half of the levels."""
    pytest.importorskip("cfgrib", reason="GRIB needs the extra `grib`")
    half = tmp_path / "half.grib"
    half.write_bytes((era5 / "era5-levels-members.grib").read_bytes()[:1_000_000])
    with pytest.raises(SourceError, match="half.grib cannot be opened") as caught:
        open_source(half)
    assert "\n" not in str(caught.value)
