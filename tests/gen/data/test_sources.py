"""The same weather is read the same way whatever a file calls its axes, names and units; what cannot be is refused."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

from gen.data.dataset_source import DatasetSource
from gen.data.sources import Source, SourceError, open_source
from gen.data.synthetic import analytic_states
from gen.data.variables import Channel, make_channels, parse_channel
from gen.fields import Field
from gen.grid import LatLonGrid

GRID = LatLonGrid.equiangular(19, 36, poles=True)
HOURS = np.arange("2020-01-01T00", "2020-01-02T06", 6, dtype="datetime64[h]")
CHANNELS = make_channels(
    ["geopotential", "temperature", "u_component_of_wind", "2m_temperature", "mean_sea_level_pressure"], [500, 850]
)


@pytest.fixture(scope="module")
def weather() -> xr.Dataset:
    """Return analytic weather in WeatherBench names."""
    states = torch.from_numpy(analytic_states(CHANNELS, GRID, HOURS.astype(np.int64)))
    return Field(states, CHANNELS, GRID, ("time",), {"time": HOURS.astype("datetime64[ns]")}).to_xarray()


def source(dataset: xr.Dataset, **options: object) -> DatasetSource:
    return DatasetSource("test", [dataset], **options)  # type: ignore[arg-type]


def values(opened: Source, codes: str = "z500,z850,t500,t850,u500,u850,2t,msl", index: int = 3) -> torch.Tensor:
    return opened.read(opened.times()[index], [parse_channel(c) for c in codes.split(",")]).values


def expected() -> torch.Tensor:
    return torch.from_numpy(analytic_states(CHANNELS, GRID, HOURS.astype(np.int64)))[3]


def ecmwf(ds: xr.Dataset) -> xr.Dataset:
    """Return ECMWF short names, north to south, level axis in Pa and upside down."""
    ds = ds.rename(
        {"geopotential": "z", "temperature": "t", "u_component_of_wind": "u", "2m_temperature": "t2m"}
        | {"mean_sea_level_pressure": "msl", "level": "isobaricInPa", "time": "valid_time"}
    ).rename(isobaricInPa="plev")
    ds["z"].attrs = {"units": "m**2 s**-2"}
    ds = ds.assign_coords(plev=("plev", ds["plev"].values * 100.0, {"units": "Pa"}))
    return ds.isel(latitude=slice(None, None, -1), plev=slice(None, None, -1))


def cf(ds: xr.Dataset) -> xr.Dataset:
    """Return CMIP names, heights in m, degrees Celsius, hPa and longitudes from -180."""
    ds = ds.rename(
        {"geopotential": "zg", "temperature": "ta", "u_component_of_wind": "ua", "2m_temperature": "tas"}
        | {"mean_sea_level_pressure": "psl", "latitude": "lat", "longitude": "lon", "level": "plev"}
    )
    ds["zg"] = (ds["zg"] / 9.80665).assign_attrs(units="m")
    ds["tas"] = (ds["tas"] - 273.15).assign_attrs(units="degC")
    ds["psl"] = (ds["psl"] / 100).assign_attrs(units="hPa")
    ds = ds.assign_coords(plev=ds["plev"] * 100)
    ds["plev"].attrs["units"] = "Pa"
    return ds.assign_coords(lon=(ds["lon"] + 180) % 360 - 180).sortby("lon")


def weatherbench_cloud(ds: xr.Dataset) -> xr.Dataset:
    """Return the axis order of the WeatherBench stores: (time, level, longitude, latitude)."""
    return ds.transpose("time", "level", "longitude", "latitude")


def arco(ds: xr.Dataset) -> xr.Dataset:
    """Return the rows of ARCO-ERA5, north to south."""
    return ds.isel(latitude=slice(None, None, -1))


def flat(ds: xr.Dataset) -> xr.Dataset:
    """Return one variable for each channel, as earth2studio writes them."""
    out = {}
    for c in CHANNELS:
        piece = ds[c.name] if c.level is None else ds[c.name].sel(level=c.level, drop=True)
        out["t2m" if c.code == "2t" else c.code] = piece
    return xr.Dataset(out).rename(latitude="lat", longitude="lon")


@pytest.mark.parametrize("convention", [ecmwf, cf, weatherbench_cloud, arco, flat])
def test_conventions_do_not_matter(weather: xr.Dataset, convention: object) -> None:
    """Every convention gives the analytic fields; tolerance: float32 rounding of units there and back."""
    opened = source(convention(weather))  # type: ignore[operator]
    assert opened.grid == GRID
    torch.testing.assert_close(values(opened), expected(), rtol=1e-6, atol=2e-4)
    assert opened.missing(CHANNELS) == ()


@pytest.mark.parametrize("suffix", [".nc", ".zarr"])
def test_files_and_stores_give_the_same_bits(weather: xr.Dataset, tmp_path: Path, suffix: str) -> None:
    """What was written is read, from NetCDF and Zarr."""
    path = tmp_path / f"w{suffix}"
    weather.to_netcdf(path) if suffix == ".nc" else weather.to_zarr(path, consolidated=False)
    opened = open_source(path)
    assert torch.equal(values(opened), expected())
    assert isinstance(opened, Source)
    assert opened.times().dtype == "datetime64[h]" and opened.members == 1 and not opened.synthetic


def test_a_folder_of_files_is_one_source(weather: xr.Dataset, tmp_path: Path) -> None:
    """Files that differ in time are joined; a time in two of them is refused."""
    weather.isel(time=slice(0, 2)).to_netcdf(tmp_path / "b.nc")
    weather.isel(time=slice(2, None)).to_netcdf(tmp_path / "a.nc")
    assert torch.equal(values(open_source(tmp_path)), expected())
    with pytest.raises(SourceError, match="nearest time is 2020-01-02T00"):
        open_source(tmp_path).read(np.datetime64("2020-01-03", "h"), CHANNELS)
    weather.isel(time=slice(1, 3)).to_netcdf(tmp_path / "c.nc")
    with pytest.raises(SourceError, match=r"both hold 2020-01-01T06"):
        open_source(tmp_path)


def test_chunks_of_a_store_are_read_once(weather: xr.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Walking through the times of a chunk loads each variable once, not once per time."""
    encoding = {n: {"chunks": (4, *weather[n].shape[1:])} for n in weather}
    weather.to_zarr(tmp_path / "w.zarr", encoding=encoding, consolidated=False)
    opened = open_source(tmp_path / "w.zarr")
    loads: list[str] = []
    original = DatasetSource._load
    monkeypatch.setattr(
        DatasetSource, "_load", lambda self, slot, *rest: loads.append(slot.variable) or original(self, slot, *rest)
    )
    for time in opened.times()[:4]:
        opened.read(time, CHANNELS)
    assert sorted(loads) == sorted(weather.data_vars)


def test_states_arrive_on_the_grid_that_is_asked_for(weather: xr.Dataset) -> None:
    """Regridding keeps the area mean of every channel, to float32."""
    opened, grid = source(weather), LatLonGrid.gaussian(24, 48)
    field = opened.read(HOURS[3], CHANNELS, grid)
    before = (expected().double() * torch.from_numpy(GRID.area_weights())).sum((-2, -1))
    after = (field.values.double() * torch.from_numpy(grid.area_weights())).sum((-2, -1))
    torch.testing.assert_close(after, before, rtol=1e-6, atol=1e-6)
    assert field.grid == grid


def test_refined_humidity_stays_positive() -> None:
    """Second-order refinement would undershoot beside a spike: the limit is kept and so is the mean over the sphere."""
    q = Channel("specific_humidity", 850)
    spike = torch.zeros(1, 1, *GRID.shape)
    spike[0, 0, 9, 17] = 1e-2
    ds = Field(spike, (q,), GRID, ("time",), {"time": HOURS[:1].astype("datetime64[ns]")}).to_xarray()
    grid = LatLonGrid.equiangular(57, 108)
    out = source(ds).read(HOURS[0], [q], grid).values[0].double().numpy()
    assert out.min() >= 0.0
    assert (out * grid.area_weights()).sum() == pytest.approx(1e-2 * GRID.area_weights()[9, 17], rel=1e-6)


def test_a_missing_level_between_two_is_interpolated(weather: xr.Dataset) -> None:
    """t700 is linear in log p, z700 follows from hydrostatics, and both are noted; 300 hPa lies outside."""
    opened = source(weather)
    t500, t850, t700, z700 = values(opened, "t500,t850,t700,z700")
    share = np.log(700 / 500) / np.log(850 / 500)
    torch.testing.assert_close(t700, t500 + share * (t850 - t500), rtol=1e-5, atol=1e-3)
    assert len(opened.notes) == 2 and "t700 is interpolated" in " ".join(opened.notes)
    assert bool((z700 > values(opened, "z850")[0]).all())
    with pytest.raises(SourceError, match="lacks t at 300 hPa"):
        values(opened, "t300")


def test_six_hour_precipitation_is_the_sum_of_hourly_totals() -> None:
    """Six totals that end at the time are added, in m; earlier than that there are none."""
    hours = np.arange("2020-01-01T00", "2020-01-01T12", dtype="datetime64[h]")
    totals = np.arange(12.0)[:, None, None] * np.ones(GRID.shape)
    coords = {"time": hours.astype("datetime64[ns]"), "latitude": GRID.latitude, "longitude": GRID.longitude}
    ds = xr.Dataset({"tp": (("time", "latitude", "longitude"), totals, {"units": "mm"})}, coords)
    opened = source(ds)
    assert [c.code for c in opened.channels()] == ["tp06"]
    field = opened.read(hours[8], opened.channels())
    torch.testing.assert_close(field.values, torch.full_like(field.values, (3 + 4 + 5 + 6 + 7 + 8) * 1e-3))
    with pytest.raises(SourceError, match="needs the hourly totals of 2019-12-31T22"):
        opened.read(hours[3], opened.channels())


def test_unknown_fields_are_filled_only_when_told(weather: xr.Dataset) -> None:
    """Without a fill value the channel is missing; with one it is constant and noted."""
    with pytest.raises(SourceError, match="lacks tp06"):
        values(source(weather), "tp06")
    opened = source(weather, fill={"tp06": 0.0})
    assert float(values(opened, "tp06").abs().max()) == 0.0
    assert opened.notes == ["tp06 is unknown and filled with 0 m"]


def test_members_of_an_ensemble_are_told_apart(weather: xr.Dataset) -> None:
    """Member k is slice k; a member beyond the last is refused."""
    ds = xr.concat([weather, weather + 1.0], xr.DataArray([0, 1], dims="number"))
    for name in ds.data_vars:
        ds[name].attrs["units"] = weather[name].attrs["units"]
    opened = source(ds)
    assert opened.members == 2
    first, second = (opened.read(HOURS[0], CHANNELS, member=k).values for k in (0, 1))
    torch.testing.assert_close(second - first, torch.ones_like(first), atol=0.02, rtol=0)
    with pytest.raises(SourceError, match="no member 2"):
        opened.read(HOURS[0], CHANNELS, member=2)


BAD = {
    "nan": (lambda ds: ds.where(ds["latitude"] < 80), "2t at 2020-01-01T18 has NaN or infinity in 72 of 684"),
    "units": (lambda ds: _units(ds, "2m_temperature", "furlong"), "unknown units 'furlong'; known for K"),
    "no units": (lambda ds: _units(ds - 273.15, "2m_temperature", None), "cannot be K"),
    "irregular": (lambda ds: ds.isel(latitude=[0, 1, 2, 5, 9]), "irregular grid: latitude"),
    "two-dimensional": (lambda ds: _curvilinear(ds), "not on a regular latitude-longitude grid"),
    "forecasts": (lambda ds: _forecast(ds), "holds forecasts"),
    "no times": (lambda ds: ds.isel(time=0, drop=True), "no times at all"),
    "half hours": (lambda ds: ds.assign_coords(time=ds["time"] + np.timedelta64(30, "m")), "not whole hours"),
    "missing": (lambda ds: ds.drop_vars("2m_temperature"), "lacks 2t; it has z, t, u at 500/850 hPa; msl"),
}


def _units(ds: xr.Dataset, name: str, units: str | None) -> xr.Dataset:
    ds = ds.copy()
    ds[name].attrs = {} if units is None else {"units": units}
    return ds


def _curvilinear(ds: xr.Dataset) -> xr.Dataset:
    lat, lon = np.meshgrid(ds["latitude"], ds["longitude"], indexing="ij")
    ds = ds.rename(latitude="y", longitude="x").drop_vars(["y", "x"])
    return ds.assign_coords(latitude=(("y", "x"), lat), longitude=(("y", "x"), lon))


def _forecast(ds: xr.Dataset) -> xr.Dataset:
    steps = np.array([6, 12], "timedelta64[h]").astype("timedelta64[ns]")
    return xr.concat([ds, ds], xr.DataArray(steps, dims="prediction_timedelta", name="prediction_timedelta"))


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_clear_line(weather: xr.Dataset, case: str) -> None:
    """Each unusable file is refused with its reason, in one line."""
    spoil, message = BAD[case]
    with pytest.raises(SourceError, match=message) as caught:
        source(spoil(weather)).read(HOURS[3], CHANNELS)
    assert "\n" not in str(caught.value)


def test_a_date_without_data_names_its_neighbours(weather: xr.Dataset) -> None:
    """The nearest times before and after are named, or the only one."""
    with pytest.raises(SourceError, match="nearest times are 2020-01-01T06 and 2020-01-01T12"):
        source(weather).read(np.datetime64("2020-01-01T07"), CHANNELS)
    with pytest.raises(SourceError, match="nearest time is 2020-01-02T00"):
        source(weather).read(np.datetime64("2021-01-01"), CHANNELS)


def test_a_regional_file_cannot_fill_the_globe(weather: xr.Dataset) -> None:
    """The covered box is named."""
    part = source(weather.sel(latitude=slice(30, 70), longitude=slice(0, 40)))
    with pytest.raises(SourceError, match="cover 25.0 to 75.0 N"):
        part.read(HOURS[0], CHANNELS, LatLonGrid.gaussian(8, 16))


def test_paths_that_are_nothing_are_refused(tmp_path: Path) -> None:
    """A missing path, a damaged file, an unknown kind, an empty folder and another protocol are one line each."""
    damaged = tmp_path / "x.nc"
    damaged.write_bytes(b"CDF\x01" + b"garbage" * 20)
    text = tmp_path / "readme.txt"
    text.write_text("x")
    (tmp_path / "empty").mkdir()
    cases = {tmp_path / "no.nc": "does not exist", damaged: "cannot be opened", text: "unknown kind of file"}
    for spec, message in {**cases, tmp_path / "empty": "holds no", "gs://a/b": "only local paths"}.items():
        with pytest.raises(SourceError, match=message) as caught:
            open_source(spec)  # type: ignore[arg-type]
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["latitude", "2m_temperature"])
def test_a_store_that_asks_to_be_unpickled_runs_nothing(name: str, weather: xr.Dataset, tmp_path: Path) -> None:
    """Zarr's metadata may name a codec that unpickles chunks: such a store is an error, and its code is not run."""
    path, mark = tmp_path / "w.zarr", tmp_path / "ran"
    weather.to_zarr(path, zarr_format=2, consolidated=False)
    header = json.loads((path / name / ".zarray").read_text())
    header |= {"dtype": "|O", "filters": [{"id": "vlen-utf8"}], "compressor": {"id": "pickle"}, "fill_value": ""}
    (path / name / ".zarray").write_text(json.dumps(header))
    for chunk in (path / name).glob("[0-9]*"):
        chunk.write_bytes(pickle.dumps(_Touch(mark)))
    with pytest.raises(SourceError, match="unpickling|lacks 2t"):
        values(open_source(path), "2t")
    assert not mark.exists()


class _Touch:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self._path,)
