"""Sampling and scoring tell a model the terrain and the time it was trained with, and say so in the file."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

from diffusion.samplers import build_sampler
from downscaling.conditions import FIELDS, STATICS, features
from downscaling.evaluate import run_evaluate
from downscaling.lattice import Target, build_domain
from downscaling.model import DownscalingModel
from downscaling.pairs import make_pair
from downscaling.request import DownscalingRequest
from downscaling.sampling import RainSampler, tile_side
from downscaling.scenes import Told, scene
from downscaling.statics import Statics
from downscaling.task import Downscaling
from downscaling.transform import RainTransform
from gen.cli import main
from gen.grid import LatLonGrid, Region

Rain = Callable[..., np.ndarray]
SAMPLED = ["sample", "--task", "downscaling", "--quiet", "--no-plot", "--device", "cpu", "--members", "1"]
END = np.datetime64("2024-07-01T07:00")
MINUTE = int(END.astype("datetime64[m]").astype(np.int64))


@pytest.fixture(scope="module")
def told(with_sampling: Callable[..., DownscalingModel]) -> DownscalingModel:
    """Return a tiny model that says it was trained with time and statics."""
    model = with_sampling()
    return DownscalingModel(model.networks, dataclasses.replace(model.meta, conditions=("time", "statics"))).eval()


@pytest.fixture(scope="module")
def folder(told: DownscalingModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("told") / "model"
    told.save(path)
    return path


@pytest.fixture(scope="module")
def mountains(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file of mountains that covers the coarse rain and no more."""
    path = tmp_path_factory.mktemp("terrain") / "mountains.nc"
    latitude, longitude = 42 + 0.1 * (np.arange(30) + 0.5), 5 + 0.1 * (np.arange(30) + 0.5)
    values = 3000 * np.random.default_rng(5).random((30, 30))
    xr.Dataset({"orog": (("lat", "lon"), values, {"units": "m"})}, {"lat": latitude, "lon": longitude}).to_netcdf(path)
    return path


@pytest.fixture(scope="module")
def coarse(tmp_path_factory: pytest.TempPathFactory, rain: Rain) -> Path:
    path = tmp_path_factory.mktemp("rain") / "coarse.nc"
    axes = {"time": [END.astype("datetime64[ns]")], "lat": grid().latitude, "lon": grid().longitude}
    values = rain(12, 12)[None]
    xr.Dataset({"pr": (("time", "lat", "lon"), values, {"units": "mm/h"})}, axes).to_netcdf(path)
    return path


def grid() -> LatLonGrid:
    steps = np.arange(12, dtype=np.float64) * 0.25
    return LatLonGrid(42.125 + steps, 5.125 + steps)


def drawn(model: DownscalingModel, rain: Rain, region: Region | None = None, **options: Any) -> tuple[Any, np.ndarray]:
    domain = build_domain(grid(), Target(4.0, region=region), tile_side(model))
    sampler = RainSampler(model, domain, build_sampler("flow_midpoint", 1), interval_hours=1.0, **options)
    return domain, np.concatenate([piece.values for piece in sampler.draw(rain(12, 12), MINUTE, [0])], axis=1)


def recorded(model: DownscalingModel, monkeypatch: pytest.MonkeyPatch) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return the list that fields and features of every tile go to."""
    seen, expect = [], model.networks.expect

    def expect_and_record(fields: torch.Tensor, numbers: torch.Tensor, place: torch.Tensor) -> Any:
        seen.append((fields[0], numbers[0]))
        return expect(fields, numbers, place)

    monkeypatch.setattr(model.networks, "expect", expect_and_record)
    return seen


def test_the_network_sees_the_terrain_of_its_pixels_and_the_middle_of_the_hour(
    told: DownscalingModel, mountains: Path, rain: Rain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fields of a tile are those of the grid; the time is half an interval before the end."""
    seen = recorded(told, monkeypatch)
    statics = Statics.open(mountains)
    domain, _ = drawn(told, rain, statics=statics)
    ((fields, numbers),) = seen
    expected = statics.fields(domain.grid)
    for name in STATICS:
        assert torch.allclose(fields[FIELDS.index(name)], expected[name], atol=1e-5)
    assert (fields[FIELDS.index("statics_known")] == 1).all()
    middle = features(4.0, domain.spacing_km, 1.0, 43.5, 6.5, END - np.timedelta64(30, "m"))
    assert torch.allclose(numbers, middle, atol=1e-5)


def test_a_model_that_was_told_nothing_is_told_nothing(
    tiny_model: DownscalingModel, rain: Rain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the conditions in its record a model gets the inputs it had in training: no time, no terrain."""
    seen = recorded(tiny_model, monkeypatch)
    domain, _ = drawn(tiny_model, rain)
    ((fields, numbers),) = seen
    assert (fields[FIELDS.index(STATICS[0]) :] == 0).all()
    assert torch.allclose(numbers, features(4.0, domain.spacing_km, 1.0, 43.5, 6.5), atol=1e-6)


def test_regions_agree_with_terrain_as_without(told: DownscalingModel, mountains: Path, rain: Rain) -> None:
    """Terrain changes the rain, and a region still has the bits of the whole field."""
    statics = Statics.open(mountains)
    a, whole = drawn(told, rain, statics=statics)
    b, part = drawn(told, rain, Region(42.6, 44.1, 5.6, 7.2), statics=statics)
    top, left = b.rows.first - a.rows.first, b.columns.first - a.columns.first
    np.testing.assert_array_equal(whole[:, top : top + part.shape[1], left : left + part.shape[2]], part)
    assert np.abs(drawn(told, rain)[1] - whole).max() > 1e-3


def test_the_file_names_the_orography(folder: Path, mountains: Path, coarse: Path, tmp_path: Path) -> None:
    """With the option its name is in the file; without it the file says that the model had to do without."""
    given = [*SAMPLED, "--model", str(folder), "--input", str(coarse), "--interval", "1", "--factor", "4"]
    assert main([*given, "--out", str(tmp_path / "a.nc"), "--orography", str(mountains)]) == 0
    assert main([*given, "--out", str(tmp_path / "b.nc")]) == 0
    a, b = (xr.open_dataset(tmp_path / name) for name in ("a.nc", "b.nc"))
    assert a.attrs["orography"] == "elevation of mountains.nc, land where it is above 1 m"
    assert b.attrs["orography"].startswith("none; the model was trained with elevation and land")
    assert np.abs(a.precipitation.values - b.precipitation.values).max() > 1e-3


def test_a_model_without_terrain_keeps_its_bits_and_says_so(
    model_folder: Path, mountains: Path, coarse: Path, tmp_path: Path
) -> None:
    """The file is not used, the rain is the same, and the warning tells."""
    given = [*SAMPLED, "--model", str(model_folder), "--input", str(coarse), "--interval", "1", "--factor", "4"]
    assert main([*given, "--out", str(tmp_path / "a.nc"), "--orography", str(mountains)]) == 0
    assert main([*given, "--out", str(tmp_path / "b.nc")]) == 0
    a, b = (xr.open_dataset(tmp_path / name) for name in ("a.nc", "b.nc"))
    assert a.precipitation.values.tobytes() == b.precipitation.values.tobytes()
    assert "trained without orography: mountains.nc was not used" in a.attrs["warning"]
    assert "orography" not in a.attrs and "orography" not in b.attrs and "orography" not in b.attrs["warning"]


def test_terrain_that_ends_inside_the_region_is_refused(
    folder: Path, coarse: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line names both extents, before anything is written."""
    small = tmp_path / "small.nc"
    axes = {"lat": [42.5, 43.0, 43.5], "lon": [5.5, 6.0, 6.5]}
    xr.Dataset({"orog": (("lat", "lon"), np.ones((3, 3)), {"units": "m"})}, axes).to_netcdf(small)
    given = [*SAMPLED, "--model", str(folder), "--input", str(coarse), "--interval", "1", "--factor", "4"]
    assert main([*given, "--out", str(tmp_path / "a.nc"), "--orography", str(small)]) == 2
    line = capsys.readouterr().err.strip()
    assert "small.nc covers latitudes 42.25 to 43.75 and longitudes 5.25 to 6.75" in line and "\n" not in line
    assert not (tmp_path / "a.nc").exists()
    request = DownscalingRequest(
        input=coarse, model=str(folder), interval=1.0, factor=4.0, orography=small, region="42.5,43.5,5.5,6.5"
    )
    assert Downscaling.open(request).domain.shape == (16, 16)
    with pytest.raises(ValueError, match="give --orography as well"):
        DownscalingRequest(land_mask=small)


@pytest.mark.parametrize("flip", [1, 2, 3])
def test_terrain_turns_over_with_the_rain_of_a_training_sample(mountains: Path, rain: Rain, flip: int) -> None:
    """Of a flipped sample every pixel keeps its rain, height and land; what rose northward now falls."""
    steps = np.arange(24, dtype=np.float64) * 0.05
    pair = make_pair(rain(24, 24), LatLonGrid(42.525 + steps, 5.525 + steps), 4.0)
    terrain = Told(statics=Statics.open(mountains))
    straight, turned = (scene(pair, RainTransform(), terrain, flip=k) for k in (0, flip))
    dims = [axis for axis, bit in ((-2, 1), (-1, 2)) if flip & bit]
    assert torch.equal(turned["rain"], torch.flip(straight["rain"], dims))
    for name, axis in (("elevation", None), ("land", None), ("slope_north", -2), ("slope_east", -1)):
        expected = torch.flip(straight["fields"][FIELDS.index(name)], dims) * (-1 if axis in dims else 1)
        assert torch.equal(turned["fields"][FIELDS.index(name)], expected)


def test_scores_are_those_of_the_model_with_its_terrain(
    folder: Path, model_folder: Path, mountains: Path, rain: Rain, tmp_path: Path
) -> None:
    """Terrain changes the model's scores and no baseline's; a model without terrain is not scored with it."""
    steps = np.arange(48) * 0.05
    axes = {"time": [END.astype("datetime64[ns]")], "lat": 42.025 + steps, "lon": 5.025 + steps}
    values = {"pr": (("time", "lat", "lon"), rain(48, 48)[None] + 0.1, {"units": "mm/h"})}
    xr.Dataset(values, axes).to_netcdf(tmp_path / "fine.nc")
    common: dict[str, Any] = {
        "events": [f"a={tmp_path / 'fine.nc'}"], "factors": [4.0], "crops": 1, "crop_size": 48, "members": 2,
        "baselines": ["bilinear"], "resamples": 100, "device": "cpu", "dtype": "float32",
    }  # fmt: skip
    found = [
        [record["crps"] for record in record_of(tmp_path / str(k), model=str(folder), orography=terrain, **common)]
        for k, terrain in enumerate((mountains, None))
    ]
    assert abs(found[0][0] - found[1][0]) > 1e-4 and found[0][1] == found[1][1]
    with pytest.raises(ValueError, match="trained without orography: leave out --orography"):
        run_evaluate(model=str(model_folder), orography=mountains, **common)
    with pytest.raises(ValueError, match="give --orography as well"):
        run_evaluate(model=str(folder), land_mask=mountains, **common)


def record_of(out: Path, **options: Any) -> list[dict[str, Any]]:
    """Return the records of the model and of linear interpolation on the only crop."""
    run_evaluate(out=out, **options)
    systems = json.loads((out / "crops.jsonl").read_text().splitlines()[1])["systems"]
    return [systems["model"], systems["bilinear"]]
