"""forecast.decode: latents decoded later are the fields of a direct run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

from autoencoders.dcae import DCAE
from autoencoders.weather import WeatherCodec
from diffusion.dual_stream import DualStreamTransformer
from forecast.decode import decode_file
from forecast.model import DynamicsMeta, ForecastModel, SamplingDefaults
from gen.data.normalize import Normalizer
from gen.data.synthetic import analytic_states, toy_world
from gen.data.variables import make_channels
from gen.grid import LatLonGrid
from gen.hub import open_model
from gen.latents import run_decode
from gen.sample import run_sample

GRID = LatLonGrid.gaussian(8, 16)
NAMES, LEVELS = ("geopotential", "u_component_of_wind", "2m_temperature"), (500, 850)
CHANNELS = make_channels(NAMES, LEVELS)
ASK = {"init": ("2020-01-01", "2020-01-02"), "members": 3, "lead": "36h", "dtype": "float32", "device": "cpu"}
OTHER: dict[str, Any] = {"variables": ("u_component_of_wind",), "levels": (850,), "layout": "weatherbench"}


def write_model(folder: Path, seed: int) -> Path:
    """A model of random weights: two frames per call, latents 4 x 4 x 8, blocks of two members."""
    torch.manual_seed(seed)
    sample = torch.from_numpy(analytic_states(CHANNELS, GRID, range(0, 2400, 60)))
    width, latent = len(CHANNELS), 4
    widths = {"encoder_block_out_channels": (8, 8), "encoder_layers_per_block": (0, 1), "attention_head_dim": 8}
    dcae = DCAE(width, width, latent_channels=latent, vector_channels=(2, 3), **widths)
    codec = WeatherCodec(dcae, Normalizer.fit(iter([sample]), CHANNELS), GRID)
    rows, columns = (axis.reshape(-1, 2).mean(1).tolist() for axis in (GRID.latitude, GRID.longitude))
    network = DualStreamTransformer(
        2 * latent, 2 * latent, latent, rows, columns, num_attention_heads=1, attention_head_dim=16,
        num_layers=1, num_single_layers=1, num_refiner_layers=0, mlp_ratio=1.0,
    )  # fmt: skip
    meta = DynamicsMeta(
        frames=2, step_hours=6, step_std=[[0.1] * latent, [0.2] * latent],
        precondition={"name": "edm", "sigma_data": 1.0}, trained_on="nothing", simulated=True,
        sampling=SamplingDefaults(steps=2, members_per_block=2),
    )  # fmt: skip
    ForecastModel(codec, network, meta).save(folder)
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, analyses, and the same forecast drawn as fields and as latents."""
    folder = tmp_path_factory.mktemp("decode")
    write_model(folder / "model", 0)
    toy_world(folder / "world.nc", grid=GRID, names=NAMES, levels=LEVELS, count=8)
    ask: dict[str, Any] = {**ASK, "model": str(folder / "model"), "source": str(folder / "world.nc"), "plot": False}
    run_sample("forecast", {**ask, "out": folder / "direct.nc"})
    run_sample("forecast", {**ask, "out": folder / "latent.zarr", "format": "latent"})
    ask |= {"region": "-50,50,300,60", "step": "12h", "dtype": "bfloat16"}
    part: dict[str, Any] = {"variables": ("z500", "2m_temperature"), "layout": "cf"}
    run_sample("forecast", {**ask, **part, "out": folder / "part.nc"})
    run_sample("forecast", {**ask, **part, "out": folder / "part.zarr", "format": "latent"})
    run_sample("forecast", {**ask, **OTHER, "out": folder / "other.nc"})
    return folder


def decode(made: Path, source: str, out: Path, **options: Any) -> Path:
    return run_decode(made / source, made / "model", out, **options)


def assert_same(ours: Path, direct: Path) -> None:
    """Equal coordinates; fields equal to 2e-6 of the largest value: some float32 roundings."""
    engine = "zarr" if ours.is_dir() else None
    with xr.open_dataset(ours, engine=engine) as a, xr.open_dataset(direct) as b:
        assert set(a.variables) == set(b.variables) and dict(a.sizes) == dict(b.sizes)
        for name in b.coords:
            assert np.array_equal(a[name].values, b[name].values)
        for name in b.data_vars:
            assert a[name].dims == b[name].dims
            tolerance = 2e-6 * float(np.abs(b[name]).max())
            np.testing.assert_allclose(a[name].values, b[name].values, rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", ["decoded.nc", "decoded.zarr"])
def test_decoded_fields_are_those_of_a_direct_run(made: Path, tmp_path: Path, name: str) -> None:
    """decode(latent forecast) = direct forecast for every variable, start, member and lead, as NetCDF and Zarr."""
    assert_same(decode(made, "latent.zarr", tmp_path / name), made / "direct.nc")


def test_channels_region_and_layout_are_those_asked_for(made: Path, tmp_path: Path) -> None:
    """Two variables over a region across the meridian, CF layout, drawn in bfloat16: decoded as they were asked for."""
    assert_same(decode(made, "part.zarr", tmp_path / "part.nc"), made / "part.nc")


def test_other_channels_and_layout_can_be_had_from_the_same_latents(made: Path, tmp_path: Path) -> None:
    """Latents hold everything: variables that were not asked for, on one level, in another layout."""
    assert_same(decode(made, "part.zarr", tmp_path / "u.nc", **OTHER), made / "other.nc")


def test_the_file_says_where_it_comes_from(made: Path, tmp_path: Path) -> None:
    """Seed, model and warning go along; what described latents does not; `history` gains one line."""
    out = decode(made, "latent.zarr", tmp_path / "decoded.nc")
    with xr.open_dataset(out) as data, xr.open_dataset(made / "direct.nc") as direct:
        for key in ("seed", "model_hash", "members_per_block", "warning", "synthetic", "channels"):
            assert data.attrs[key] == direct.attrs[key]
        assert "grid" not in data.attrs and "codec_hash" not in data.attrs
        assert data.attrs["history"].splitlines()[-1].endswith("decoded from latent.zarr by gen-earth")


def test_latents_of_another_model_are_refused(made: Path, tmp_path: Path) -> None:
    """Another model's digest: one line, and no file."""
    other = write_model(tmp_path / "other", 1)
    with pytest.raises(ValueError, match="decode it with the model that wrote it"):
        run_decode(made / "latent.zarr", other, tmp_path / "x.nc")
    assert not (tmp_path / "x.nc").exists()


@pytest.mark.parametrize(
    ("options", "rule"),
    [({"variables": ("q500",)}, "it has z500"), ({"levels": (700,)}, r"no level 700 hPa; it has \[500, 850\]")],
)
def test_what_the_model_does_not_have_is_refused(
    made: Path, tmp_path: Path, options: dict[str, tuple[object, ...]], rule: str
) -> None:
    """A channel outside the model is one line that names what there is."""
    with pytest.raises(ValueError, match=rule):
        decode(made, "latent.zarr", tmp_path / "x.nc", **options)


def test_fields_are_no_latents(made: Path, tmp_path: Path) -> None:
    """A forecast of fields cannot be decoded; the line says how latents are written."""
    with pytest.raises(ValueError, match="--format latent"):
        decode(made, "direct.nc", tmp_path / "x.nc")


def test_progress_counts_frames(made: Path, tmp_path: Path) -> None:
    """2 starts x 3 members x 6 lead times = 36 frames, reported in order up to all."""
    seen: list[tuple[int, int]] = []
    folder = open_model(made / "model")
    decode_file(
        folder.path, folder.digest, made / "latent.zarr", tmp_path / "x.nc",
        report=lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    assert [done for done, _ in seen] == sorted({done for done, _ in seen}) and seen[-1] == (36, 36)
