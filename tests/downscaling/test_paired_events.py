"""Training on pairs of two data sets: crops where they lie, strata of the input, predictors, winds turned over."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from zarr.storage import ZipStore

from downscaling.conditions import FIELDS, upsample
from downscaling.evaluate import run_evaluate
from downscaling.model import KNOWN, DownscalingModel
from downscaling.paired_events import PairedStream, crop_index, open_paired
from downscaling.predictors import normalised, open_predictors, turned
from downscaling.rainshift_statics import open_region_statics
from downscaling.recipe import DownscalingParams, DownscalingRecipe
from downscaling.scenes import SceneStream, Told, scene
from downscaling.transform import RainTransform
from gen.cli import main
from gen.config import from_mapping, load
from gen.data.sources import SourceError
from gen.engine import RunConfig
from gen.grid import LatLonGrid

SIZES = {"widths": [8, 16, 32], "depths": [1, 1, 1], "head_dim": 16, "window": 4, "halo": 2}
NAMES = ["cape", "u", "v"]
SIZE = 40


@pytest.fixture(scope="module")
def data(write_region: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two regions, six degrees wide, one day of training and one of test."""
    root = tmp_path_factory.mktemp("paired")
    for name in ("europe_west", "amazon-basin"):
        write_region(root, name, days=(1, 1))
    return root


def params(data: Path, **changes: Any) -> DownscalingParams:
    return DownscalingParams(**{
        "train": [{"rainshift": str(data), "every": 6}],
        "valid": [{"rainshift": str(data), "regions": ["europe_west"], "split": "test", "every": 12}],
        "factors": [2.5], "crop": SIZE, "mean": SIZES, "flow": SIZES, "predictors": NAMES, "dropout": 0.5,
        "sampling": {"steps": 1, "tile": 64, "overlap": 16}, "trained_on": "a fixture", "simulated": True,
        **changes,
    })  # fmt: skip


@pytest.fixture(scope="module")
def recipe(data: Path) -> DownscalingRecipe:
    return DownscalingRecipe(params(data), seed=0)


@pytest.fixture(scope="module")
def trained(recipe: DownscalingRecipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight steps, exported."""
    torch.manual_seed(0)
    model, stream = recipe.model(), SceneStream(recipe.train, recipe.transform, 2, told=recipe.told)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for step in range(8):
        loss, _ = recipe.loss(model, stream.numbered(step % 3), torch.Generator().manual_seed(step % 3))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert np.mean(losses[-3:]) < np.mean(losses[:3])
    folder = tmp_path_factory.mktemp("trained")
    recipe.export(model.eval(), folder)
    return folder


def packed(path: Path) -> xr.Dataset:
    """Return a zipped store, read without our reader."""
    return xr.open_zarr(ZipStore(path, mode="r"), consolidated=False, chunks=None)


def test_a_pair_is_what_the_files_hold_where_it_lies(data: Path) -> None:
    """Fine and coarse values of a crop are those of the stores at the same latitudes, longitudes and hour."""
    sources = open_paired(rainshift=data, regions=["amazon-basin"], every=5, predictors=["cape"])
    stream = PairedStream(sources, crop_index(sources, SIZE), seed=0)
    pair = stream.sample(3)
    assert pair.factor == 2.5 and pair.fine.shape == (SIZE, SIZE) and pair.interval_hours == 1.0
    folder = data / "amazon-basin"
    for side, name, scale, values, grid in (
        ("in", "tp", 1000.0, pair.coarse, pair.coarse_grid),
        ("in", "cape", 1.0, pair.predictors["cape"], pair.coarse_grid),
        ("out", "precipitation", 1.0, pair.fine, pair.fine_grid),
    ):
        raw = packed(folder / f"train_data_{side}.zarr.zip")
        there = raw[name].assign_coords(longitude=raw.longitude % 360.0).sel(time=pair.time)
        wanted = there.sel(latitude=grid.latitude, longitude=grid.longitude % 360.0, method="nearest").values
        inside = np.isfinite(values)
        np.testing.assert_allclose(values[inside], np.maximum(scale * wanted, 0)[inside], atol=2e-3, rtol=1e-3)
    again = PairedStream(sources, crop_index(sources, SIZE), seed=0).sample(3)
    np.testing.assert_array_equal(again.fine, pair.fine)


def test_strata_are_of_the_input(data: Path) -> None:
    """A target ten times as wet is drawn from the same crops: choice by the target would bend the law."""
    source = open_paired(rainshift=data, regions=["europe_west"], every=4)[0]
    plain = crop_index([source], SIZE)

    class Wetter:
        def __getattr__(self, name: str) -> Any:
            return getattr(source.fine, name)

        def read(self, index: int, member: int = 0) -> np.ndarray:
            return 10 * source.fine.read(index)

    other = crop_index([type(source)(Wetter(), source.coarse, source.times)], SIZE)  # type: ignore[arg-type]
    np.testing.assert_array_equal(plain.stratum, other.stratum)
    assert np.unique(plain.stratum).size > 1


def test_the_configuration_for_rainshift_builds() -> None:
    """Its networks take the predictors and the flag beside what all models take; nothing of the data is needed."""
    run = load(RunConfig, Path(__file__).parents[2] / "configs/downscaling/rainshift.yaml", [])
    wanted = from_mapping(DownscalingParams, run.params, "rainshift", "params")
    with torch.device("meta"):
        networks = DownscalingRecipe.networks(wanted)
    assert networks["mean"].config["in_channels"] == len(FIELDS) + 7 + 1
    assert networks["flow"].config["cond_channels"] == KNOWN + 7 + 1
    assert networks["mean"].factor == networks["flow"].factor and wanted.crop % networks["flow"].factor == 0


@pytest.mark.parametrize("flip", [1, 2, 3])
def test_turning_a_pair_over_turns_its_fields_over(recipe: DownscalingRecipe, flip: int) -> None:
    """On grids that share no edge: fields turn over, places inside cells too, winds change sign along the turn."""
    pair = recipe.train.streams[0].sample(1)
    told = Told(predictors=recipe.told.predictors)
    plain, other = (scene(pair, RainTransform(), told, flip=f)["fields"] for f in (0, flip))
    axes = [d for d, bit in ((1, 1), (2, 2)) if flip & bit]
    signs = dict.fromkeys(range(len(plain)), 1.0)
    signs[FIELDS.index("row_sin")] = -1.0 if flip & 1 else 1.0
    signs[FIELDS.index("column_sin")] = -1.0 if flip & 2 else 1.0
    mean = {p.name: -p.mean / p.std for p in recipe.told.predictors}  # of zero wind
    expected = torch.flip(plain, axes)
    for k, name in enumerate(NAMES):
        if (name, True) in (("u", bool(flip & 2)), ("v", bool(flip & 1))):
            expected[len(FIELDS) + k] = 2 * mean[name] - expected[len(FIELDS) + k]
    for k in range(len(FIELDS)):
        expected[k] *= signs[k]
    inside = [k for k in range(len(plain)) if not (k >= len(FIELDS) and NAMES[min(k - len(FIELDS), 2)] in "uv")]
    torch.testing.assert_close(other[inside], expected[inside], atol=2e-5, rtol=1e-4)
    winds = normalised(turned(pair.predictors, [a - 1 for a in axes]), recipe.told.predictors)
    sign = {"u": -1.0 if flip & 2 else 1.0, "v": -1.0 if flip & 1 else 1.0}
    for k, name in ((1, "u"), (2, "v")):
        speed = {"u": 8.0, "v": -3.0}[name] * sign[name]
        p = recipe.told.predictors[k]
        assert winds is not None
        np.testing.assert_allclose(winds[k], np.clip((speed - p.mean) / p.std, -10, 10), atol=1e-3)


def test_names_of_winds_are_recognised() -> None:
    """u and v in the names of ERA5, CF tables and WeatherBench; a vertical integral of vapour is no wind."""
    field = np.arange(6, dtype=np.float32).reshape(2, 3)
    names = ["u", "u10", "10u", "u700", "10m_u_component_of_wind", "u_component_of_wind", "tcwv", "v10", "cape", "uvb"]
    found = turned(dict.fromkeys(names, field), [1])
    negated = {n for n in names if found[n].min() < 0}
    assert negated == {"u", "u10", "10u", "u700", "10m_u_component_of_wind", "u_component_of_wind"}
    assert turned({"v": field}, [0])["v"][0, 0] == -3 and turned({"v": field}, [1])["v"][0, 0] == 2


def test_predictors_are_withheld_now_and_then(recipe: DownscalingRecipe) -> None:
    """With a chance of one half the flag is 0 and so is every predictor; else their values are of order one."""
    stream = SceneStream(recipe.train, recipe.transform, 1, told=recipe.told)
    more = torch.cat([stream.numbered(n)["fields"][:, len(FIELDS) :] for n in range(24)])
    assert more.shape[1] == len(NAMES) + 1
    flag = more[:, -1].mean((1, 2))
    assert set(flag.tolist()) == {0.0, 1.0} and 0.2 < float(flag.mean()) < 0.8
    assert float(more[flag == 0].abs().max()) == 0.0
    cape = more[flag == 1][:, 0]
    assert abs(float(cape.mean())) < 1.0 and 0.3 < float(cape.std()) < 3.0


def test_what_a_model_knows_of_predictors_is_in_its_folder(trained: Path, data: Path) -> None:
    """Names, means and deviations of the training inputs; values beyond ten deviations are held."""
    meta = DownscalingModel.load(trained).meta
    assert [p.name for p in meta.predictors] == NAMES and meta.factors == (2.5, 2.5)
    stores = [packed(data / name / "train_data_in.zarr.zip") for name in ("europe_west", "amazon-basin")]
    both = np.concatenate([s.cape.values.ravel() for s in stores])
    assert meta.predictors[0].mean == pytest.approx(both.mean(), rel=1e-4)
    assert meta.predictors[0].std == pytest.approx(both.std(), rel=1e-4)
    held = normalised({n: np.full((2, 2), 1e9) for n in NAMES}, meta.predictors)
    assert held is not None and held.max() == 10.0
    assert normalised({"cape": np.zeros((2, 2))}, meta.predictors) is None


def test_sampling_takes_predictors_from_the_input(trained: Path, data: Path, tmp_path: Path) -> None:
    """A store that has them, and a file of the same rain without: other members, and the files say which."""
    store = data / "europe_west" / "test_data_in.zarr.zip"
    rain = packed(store)[["tp"]].isel(time=slice(0, 2)).load()
    rain.tp.encoding.clear()
    rain.tp.attrs["units"] = "m"
    rain.to_netcdf(tmp_path / "rain.nc")
    found = []
    for k, path in enumerate((store, tmp_path / "rain.nc")):
        line = (
            f"sample --task downscaling --model {trained} --input {path} --region europe_west --factor 2.5 --members 1 "
            f"--times 2021-07-01T01:00 --conserve none --dtype float32 --no-plot --quiet --out {tmp_path}/{k}.nc"
        )
        assert main(line.split()) == 0
        found.append(xr.load_dataset(tmp_path / f"{k}.nc"))
    assert found[0].attrs["predictors"] == "cape, u, v, of the input"
    assert found[1].attrs["predictors"] == "none; the model also knows cape, u, v"
    fields = [next(v for v in f.data_vars.values() if "realization" in v.dims and v.ndim == 4).values for f in found]
    assert fields[0].shape == fields[1].shape and not np.array_equal(fields[0], fields[1], equal_nan=True)


def test_a_trained_model_is_scored_with_its_predictors(trained: Path, data: Path) -> None:
    """From the fixture to a table: training, then both regions at one hour each."""
    scores = run_evaluate(
        rainshift=data, model=str(trained), times=("2021-07-01T05:00",), members=2, resamples=100, dtype="float32",
        baselines=("bilinear",), home=("europe_west",),
    )  # fmt: skip
    assert [g["region"] for g in scores["groups"]] == [None, "amazon-basin", "europe_west"]
    assert scores["groups"][0]["systems"]["model"]["scores"]["crps"]["value"] > 0


def test_linear_interpolation_of_predictors_is_by_position() -> None:
    """Cell means do not depend on pixels that stick to the edge of the input."""
    coarse = torch.arange(6.0)[:, None].expand(6, 6)
    rows = torch.arange(12.0, dtype=torch.float64) * 0.4 + 0.2
    stuck = torch.cat([torch.zeros(3, dtype=torch.float64), rows])
    cell, _ = upsample(coarse, rows, rows)
    other, _ = upsample(coarse, stuck, rows)
    torch.testing.assert_close(other[3:], cell)


def test_statics_are_those_of_the_region(data: Path, tmp_path: Path) -> None:
    """z / 9.80665 is a plane of 0 to 4 km in the file of each region; a place in no region is refused."""
    statics = open_region_statics(data)
    pair = open_paired(rainshift=data, regions=["amazon-basin"], every=9)[0]
    assert isinstance(pair.fine.grid, LatLonGrid)
    found = statics.fields(pair.fine.grid)
    np.testing.assert_allclose(found["elevation"].numpy()[[0, -1], [0, -1]], [0.0, 4.0], atol=0.05)
    land = xr.load_dataset(data / "amazon-basin" / "static_variables.nc").lsm.values[::-1]
    assert np.corrcoef(found["land"].numpy().ravel(), land.ravel())[0, 1] > 0.9
    with pytest.raises(SourceError, match="no RainShift region at hand holds"):
        statics.fields(LatLonGrid(pair.fine.grid.latitude + 60, pair.fine.grid.longitude))
    told = DownscalingRecipe(params(data, predictors=[], statics={"rainshift": str(data)}), 0).told
    assert told.names == ("statics",) and "2 RainShift region(s)" in statics.described
    (tmp_path / "blacksea").mkdir()
    with pytest.raises(SourceError, match=r"has no static_variables.nc"):
        open_region_statics(tmp_path)


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"predictors": ["dewpoint"]}, "has no maps of dewpoint in time, latitude and longitude; it has"),
        ({"factors": [2.5, 4.0]}, "no event has pairs of factor 4"),
        ({"space": "latent", "codec": "x"}, "predictors need space: pixel"),
        ({"train": [{"rainshift": "{data}", "path": "a.nc", "coarse": "b"}]}, "pairs need either rainshift, or path"),
        (
            {"train": [{"path": "{data}/europe_west/train_data_out.zarr.zip",
                        "coarse": "{data}/europe_west/test_data_in.zarr.zip"}]},
            "have no time in common",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_trained_is_one_line(data: Path, changes: dict[str, Any], rule: str) -> None:
    if "train" in changes:
        changes = {"train": [{k: v.format(data=data) for k, v in e.items()} for e in changes["train"]]}
    with pytest.raises(ValueError, match=rule) as caught:
        DownscalingRecipe(params(data, **changes), 0)
    assert "\n" not in str(caught.value)


def test_a_file_of_another_kind_has_no_predictors(tmp_path: Path) -> None:
    (tmp_path / "rain.tif").write_bytes(b"")
    assert open_predictors(tmp_path / "rain.tif", NAMES) == (None, NAMES)
    with pytest.raises(SourceError, match="pairs need either rainshift, or path and coarse"):
        open_paired(path="fine.nc")
