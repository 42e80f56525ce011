"""Files of the default layout are what WeatherBench-X reads without an option, and score there as they score here."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import xarray as xr

from gen.data.variables import make_channels
from gen.evaluate import run_evaluate
from gen.grid import LatLonGrid
from gen.writers.spec import FileSpec
from gen.writers.staged import StagedWriter

GRID = LatLonGrid.equiangular(19, 36, poles=True)
CHANNELS = make_channels(["geopotential", "2m_temperature", "sea_surface_temperature"], [500, 850])
INITS = np.array(["2024-01-01T00", "2024-01-02T12"], "datetime64[h]")
LEADS = np.array([24, 48], "timedelta64[h]")
SCALE = np.array([400.0, 200.0, 5.0, 2.0])[:, None, None]
MEAN = np.array([54000.0, 14000.0, 280.0, 290.0])[:, None, None]
LAND = (GRID.longitude < 120) & (np.abs(GRID.latitude)[:, None] > 20)


def states(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Return smooth-less fields [..., C, H, W], NaN over land in the last channel."""
    values = MEAN + SCALE * rng.standard_normal((*shape, len(CHANNELS), *GRID.shape))
    values[..., -1, LAND] = np.nan
    return values


@pytest.fixture(scope="module", params=["netcdf", "zarr"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Return a forecast of four members written by us, and a truth store in the layout of WeatherBench."""
    folder, rng = tmp_path_factory.mktemp("wbx"), np.random.default_rng(4)
    path = folder / ("f.nc" if request.param == "netcdf" else "f.zarr")
    with StagedWriter(path, FileSpec(CHANNELS, GRID, 4, INITS, LEADS), request.param) as writer:
        for k in range(INITS.size):
            writer.write(k, slice(0, 4), states(rng, 4, LEADS.size).astype(np.float32))
            writer.commit(k, slice(0, 4))
    times = np.unique((INITS[:, None] + LEADS).ravel())
    truth = states(rng, times.size).astype(np.float32)
    places = ("latitude", "longitude")
    fields = {
        "geopotential": (("time", "level", *places), truth[:, :2], {"units": "m2 s-2"}),
        "2m_temperature": (("time", *places), truth[:, 2], {"units": "K"}),
        "sea_surface_temperature": (("time", *places), truth[:, 3], {"units": "K"}),
    }
    axes = {"time": times.astype("datetime64[ns]"), "level": ("level", [500, 850], {"units": "hPa"})}
    store = xr.Dataset(fields, {**axes, "latitude": GRID.latitude, "longitude": GRID.longitude})
    store.to_netcdf(folder / "truth.nc", engine="h5netcdf")
    return SimpleNamespace(path=path, truth=folder / "truth.nc")


@pytest.mark.filterwarnings("ignore")
def test_the_layout_is_what_the_library_relies_on(made: SimpleNamespace) -> None:
    """What `PredictionsFromXarray(path)` does by default, restated, and every name that it must not find.

    It opens without options; renames `time` and `prediction_timedelta`; a file without the latter is silently taken for
    an analysis, one that has `lead_time`, `init_time` or `lat` clashes; `sel` needs true timedelta64, which xarray
    makes of numbers only if the attribute dtype is on disk; `number` is the name of the ensemble's dimension.
    """
    data = xr.open_zarr(made.path) if made.path.suffix == ".zarr" else xr.open_dataset(made.path)
    dims = ("number", "time", "prediction_timedelta", "latitude", "longitude")
    assert data["2m_temperature"].dims == dims and data.geopotential.dims == (*dims[:3], "level", *dims[3:])
    assert not {"lead_time", "init_time", "lat", "lon", "ensemble", "realization"} & {*data.variables, *data.dims}
    assert data.prediction_timedelta.dtype.kind == "m" and data.time.dtype.kind == "M"
    raw = xr.open_dataset(
        made.path, engine="zarr" if made.path.is_dir() else "h5netcdf", decode_times=False, decode_timedelta=False
    )
    assert raw.prediction_timedelta.attrs["dtype"] == "timedelta64[ns]" and raw.prediction_timedelta.dtype == np.int64
    assert raw.number.values.tolist() == [0, 1, 2, 3] and raw.level.values.tolist() == [500, 850]
    assert (np.diff(data.latitude) > 0).all() and data.longitude.values[0] == 0
    renamed = data.rename(time="init_time", prediction_timedelta="lead_time")
    chunk = renamed.sel(init_time=INITS.astype("datetime64[ns]"), lead_time=LEADS.astype("timedelta64[ns]"))
    assert dict(chunk.sizes) == dict(renamed.sizes) and chunk.geopotential.dtype == np.float32
    assert np.array_equal(np.isnan(chunk.sea_surface_temperature[0, 0, 0]), LAND)


@pytest.mark.filterwarnings("ignore")
def test_weatherbench_x_scores_what_gen_evaluate_scores(made: SimpleNamespace) -> None:
    """Fair CRPS and unbiased RMSE with area weights agree to 1e-5, over the sea for sea-surface temperature."""
    reason = "needs WeatherBench-X, which no package index has: install it from its repository"
    aggregation = pytest.importorskip("weatherbenchX.aggregation", reason=reason)
    from weatherbenchX import weighting
    from weatherbenchX.data_loaders import xarray_loaders
    from weatherbenchX.metrics import probabilistic

    names = ["geopotential", "2m_temperature", "sea_surface_temperature"]
    inits, leads = INITS.astype("datetime64[ns]"), LEADS.astype("timedelta64[ns]")
    predictions = xarray_loaders.PredictionsFromXarray(path=str(made.path), variables=names).load_chunk(inits, leads)
    targets = xarray_loaders.TargetsFromXarray(path=str(made.truth), variables=names).load_chunk(inits, leads)
    metrics = {"crps": probabilistic.CRPSEnsemble(), "rmse": probabilistic.UnbiasedEnsembleMeanRMSE()}
    area = [weighting.GridAreaWeighting()]
    aggregator = aggregation.Aggregator(["init_time", "latitude", "longitude"], weigh_by=area, skipna=True)
    theirs = aggregation.compute_metric_values_for_single_chunk(metrics, aggregator, predictions, targets)
    codes = ("z500", "2t", "sst")
    scores = run_evaluate([made.path], str(made.truth), variables=codes, leads=(24, 48), baselines=())["scores"][
        "model"
    ]
    for ours, name in (("crps", "crps"), ("rmse_unbiased", "rmse")):
        expected = (
            theirs[f"{name}.geopotential"].sel(level=500),
            theirs[f"{name}.2m_temperature"],
            theirs[f"{name}.sea_surface_temperature"],
        )
        for code, values in zip(codes, expected, strict=True):
            assert np.isfinite(values).all() and np.allclose(scores[ours][code]["value"], values, rtol=1e-5), code
