"""forecast.interop: upstream's numbers from upstream's files, and nothing else gets in."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import upstream_folders as upstream
from safetensors.torch import load_file, save_file
from torch import Tensor

import gen
from autoencoders.weather import limit
from forecast import ladcast_files
from forecast.interop import convert_ladcast, hours_of_dates, load_ladcast_autoencoder, load_ladcast_transformer
from forecast.model import ForecastModel
from gen.cli import main
from gen.fields import Field
from gen.hub import open_model
from gen.weights import WEIGHTS

TOLERANCE = 2e-5  # upstream differs from itself by 2e-6: float32 sums in another order


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder laid out like the hub's, with random weights; tests that change it copy it first."""
    return Path(upstream.save_both(tmp_path_factory.mktemp("published") / "ladcast"))


@pytest.fixture(scope="session")
def statics(shared: Path) -> Path:
    """Return the folder of the two published files of static fields."""
    return shared / "data" / "static"


@pytest.fixture(scope="session")
def converted(published: Path, statics: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the converted model."""
    return convert_ladcast(published, tmp_path_factory.mktemp("converted") / "model", static=statics)


def fixture_folder(shared: Path, folder: Path, name: str) -> tuple[Path, dict[str, Tensor]]:
    """Lay the fixtures of a network out as upstream saves it; return the folder, and inputs and outputs."""
    source = shared / "fixtures" / "ladcast"
    folder.mkdir(parents=True)
    shutil.copy(source / f"{name}_tiny_config.json", folder / "config.json")
    shutil.copy(source / f"{name}_tiny_weights.safetensors", folder / WEIGHTS)
    return folder, load_file(source / f"{name}_tiny_io.safetensors")


@torch.no_grad()
def test_the_autoencoder_gives_upstream_numbers(shared: Path, tmp_path: Path) -> None:
    """encode(x, static) and decode(z) of the loaded folder: 2e-5."""
    folder, io = fixture_folder(shared, tmp_path / "dcae", "dcae")
    module = load_ladcast_autoencoder(folder)
    assert not module.training
    torch.testing.assert_close(module.encode(io["x"], io["static"]), io["latent"], rtol=0, atol=TOLERANCE)
    torch.testing.assert_close(module.decode(io["latent"]), io["recon"], rtol=0, atol=TOLERANCE)


@torch.no_grad()
def test_the_transformer_gives_upstream_numbers(shared: Path, tmp_path: Path) -> None:
    """forward(x, c_noise, cond, dates) with upstream's int64 dates, with two known frames and without dates: 2e-5."""
    folder, io = fixture_folder(shared, tmp_path / "transformer", "transformer")
    module = load_ladcast_transformer(str(folder))
    arguments = io["x"], io["timestep_c_noise"]
    for cond, dates, output in (
        (io["cond_1frame"], io["dates_int64"], "y_cond1"),
        (io["cond_2frame"], io["dates_int64"], "y_cond2"),
        (io["cond_1frame"], None, "y_cond1_nodates"),
    ):
        torch.testing.assert_close(module(*arguments, cond, dates), io[output], rtol=0, atol=TOLERANCE)


def test_dates_are_exact() -> None:
    """Every hour of the calendar, also those that float32 rounds: upstream's 2018010100 became 2018010112."""
    texts = ["1970-01-01T00", "2018-01-01T00", "2018-01-01T11", "2020-02-29T18", "1979-01-01T05", "2026-12-31T23"]
    dates = torch.tensor([int(re.sub(r"\D", "", t)) for t in texts])
    assert hours_of_dates(dates).tolist() == np.array(texts, "datetime64[h]").astype(int).tolist()
    assert int(torch.tensor(2018010100, dtype=torch.float32)) != 2018010100
    with pytest.raises(ValueError, match=r"must be int64 YYYYMMDDHH; got torch.float32"):
        hours_of_dates(dates.float())
    for wrong in (2018023000, 2018010124, 20180101):
        with pytest.raises(ValueError, match="dates must be YYYYMMDDHH"):
            hours_of_dates(torch.tensor([wrong]))


@pytest.mark.parametrize(("size", "kind"), [("dcae", "autoencoder"), ("375M", "transformer"), ("1.6B", "transformer")])
def test_every_published_key_is_mapped(shared: Path, tmp_path: Path, size: str, kind: Any) -> None:
    """The manifests' names and shapes are those of the networks their configurations give, EMA fields or not."""
    from forecast import interop

    manifest = json.loads((shared / "manifests" / f"ladcast_manifest_{size}.json").read_text())
    config = manifest["resolved_config_as_saved_in_config.json"] | {"_class_name": manifest["class"], "power": 0.75}
    shapes = {name: tuple(entry["shape"]) for name, entry in manifest["parameters"].items()}
    files = type("Files", (), {"folder": tmp_path, "shapes": shapes})()
    published = ladcast_files.PublishedNetwork(kind, config, files, "manifest")
    network = {"autoencoder": interop._autoencoder, "transformer": interop._transformer}[kind](published)
    published.check(network)
    assert len(shapes) == manifest["n_tensors"]
    assert sum(p.numel() for p in network.parameters()) == manifest["n_params"]


@torch.no_grad()
def test_a_converted_model_is_complete(converted: Path, published: Path) -> None:
    """Weights keep their bits; grid, gaps, statistics, frames and sampler are those of the published model."""
    model = ForecastModel.load(converted)
    for component, folder in (("codec", "DCAE"), ("dynamics", "tiny")):
        stored = load_file(converted / component / WEIGHTS)
        original = load_file(published / "V0.1.X" / folder / WEIGHTS)
        assert set(stored) == set(original) and all(torch.equal(stored[k], original[k]) for k in original)
    codec, meta = model.codec, model.meta
    assert (meta.target, meta.folded, meta.frames, meta.step_hours) == ("states", False, 4, 6)
    assert meta.precondition == {"name": "edm", "sigma_data": 0.5} and not meta.simulated
    assert (meta.sampling.sampler, meta.sampling.steps) == ("dpmpp_2m", 20)
    assert meta.sampling.settings == {"sigma_min": 0.002, "sigma_max": 80.0, "rho": 7.0}
    assert codec.grid.shape == (121, 240) and codec.latent_shape == (84, 15, 30) and codec.missing == {"sst": -2.0}
    assert codec.static is not None and codec.land is not None
    assert codec.static.shape == (5, 120, 240) and float(codec.static.mean().abs()) < 1e-5
    assert bool(codec.land[0].all()) and 0.33 < float(codec.land.float().mean()) < 0.35


@torch.no_grad()
def test_a_converted_codec_keeps_gaps_and_pole(converted: Path, published: Path) -> None:
    """Latents are those of the bare module, normalised to upstream's 0.5; 121 rows come back, NaN over land only."""
    codec = ForecastModel.load(converted).codec
    assert codec.static is not None and codec.land is not None
    x = torch.randn(1, 84, 121, 240, generator=torch.Generator().manual_seed(0))
    values = x * codec.normalizer.std.float()[:, None, None] + codec.normalizer.mean.float()[:, None, None]
    values[0, 82][codec.land] = torch.nan
    z = codec.encode(values)
    bare = load_ladcast_autoencoder(published / "V0.1.X" / "DCAE")
    seen = codec.normalizer.forward(values)[:, :, 1:]
    raw = bare.encode(seen.nan_to_num(-2.0), codec.static)
    torch.testing.assert_close(z * codec.latent_std[:, None, None] + codec.latent_mean[:, None, None], raw)
    back = codec.decode(z)
    assert back.shape == values.shape and torch.equal(torch.isnan(back[0, 82]), codec.land)
    assert bool(torch.isfinite(back[:, :82]).all()) and float(back[0, 83].min()) >= 0


def test_a_converted_model_forecasts(
    published: Path, statics: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the command line to a Dataset: a state whose sea-surface temperature has gaps, four frames, 121 rows.

    The analysis is random numbers with the published statistics; weights are random too.
    """
    arguments = ["convert", str(published), "--from", "ladcast", "--out", str(tmp_path / "m"), "--static", str(statics)]
    assert main([*arguments, "--transformer", "V0.1.X/tiny", "--dtype", "bfloat16"]) == 0
    assert str(tmp_path / "m") in capsys.readouterr().out
    model = gen.load(tmp_path / "m")
    codec = model.codec
    x = torch.randn(1, 84, 121, 240, generator=torch.Generator().manual_seed(0)) / 4
    values = x * codec.normalizer.std.float()[:, None, None] + codec.normalizer.mean.float()[:, None, None]
    values = limit(values, codec.channels)
    values[0, 82][codec.land] = torch.nan
    when = {"time": np.array(["2018-07-01T00"], "datetime64[ns]")}
    Field(values, codec.channels, codec.grid, ("time",), when).to_xarray().to_netcdf(tmp_path / "state.nc")
    wishes: dict[str, Any] = {"members": 1, "lead": "24h", "steps": 1, "variables": ["sst", "tp06", "10u"], "batch": 1}
    forecast = model("2018-07-01", source=str(tmp_path / "state.nc"), **wishes)
    sst, rain = forecast["sea_surface_temperature"], forecast["total_precipitation_6hr"]
    assert sst.shape == (1, 1, 4, 121, 240) and bool((np.diff(forecast.latitude) > 0).all())
    assert np.isnan(sst.values).all((0, 1, 2)).tolist() == codec.land.tolist()
    assert np.isnan(sst.values).sum() == 4 * int(codec.land.sum())
    assert float(rain.min()) >= 0 and bool(np.isfinite(rain).all())
    assert forecast.attrs["model"] == "ladcast-0M" and "warning" not in forecast.attrs


def test_the_card_says_where_it_comes_from_and_what_is_unknown(converted: Path) -> None:
    """Source, licence, the mask's rule, and that nobody here has verified the scores; no place on this machine."""
    card = (converted / "README.md").read_text()
    for words in ("arXiv 2506.09193", "MIT", "Apache-2.0", "not verified", "ladcast, V0.1.X/tiny", "mask is 0.5"):
        assert words in card
    everything = "".join(p.read_text() for p in converted.rglob("*") if p.suffix in (".json", ".md"))
    assert str(converted.parent.parent) not in everything and max(map(len, card.splitlines())) <= 160


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_halves_the_weights(converted: Path, published: Path, statics: Path, tmp_path: Path, dtype: str):
    """Stored in two bytes, loaded as float32; statistics and static fields keep their bits."""
    half = convert_ladcast(published, tmp_path / "half", static=statics, dtype=dtype)
    sizes = [(folder / "codec" / WEIGHTS).stat().st_size for folder in (half, converted)]
    assert sizes[0] < 0.51 * sizes[1]
    assert (half / "fields.safetensors").read_bytes() == (converted / "fields.safetensors").read_bytes()
    assert next(ForecastModel.load(half).network.parameters()).dtype == torch.float32


def test_sources_of_every_form_give_the_same_model(
    converted: Path, published: Path, statics: Path, tmp_path: Path
) -> None:
    """Sub-folders by name, two separate folders from either side, shards: the same network files."""
    version = published / "V0.1.X"
    shards = tmp_path / "shards"
    shutil.copytree(version / "tiny", shards)
    weights = load_file(shards / WEIGHTS)
    (shards / WEIGHTS).unlink()
    halves = [dict(list(weights.items())[::2]), dict(list(weights.items())[1::2])]
    for k, half in enumerate(halves):
        save_file(half, shards / f"part-{k}.safetensors")
    index = {"weight_map": {name: f"part-{k}.safetensors" for k, half in enumerate(halves) for name in half}}
    (shards / f"{WEIGHTS}.index.json").write_text(json.dumps(index))
    forms: list[tuple[Path, dict[str, Any]]] = [
        (published, {"autoencoder": "V0.1.X/DCAE", "transformer": "V0.1.X/tiny"}),
        (version / "DCAE", {"transformer": version / "tiny"}),
        (version / "tiny", {"autoencoder": str(version / "DCAE")}),
        (version / "DCAE", {"transformer": shards}),
    ]
    for k, (source, options) in enumerate(forms):
        out = convert_ladcast(source, tmp_path / str(k), static=statics, **options)
        assert open_model(out).digest == open_model(converted).digest


def test_an_autoencoder_alone_becomes_a_codec(published: Path, statics: Path, tmp_path: Path) -> None:
    """A folder with one config.json is a source too: what can be made of it is made."""
    from autoencoders.store import load_codec

    out = convert_ladcast(published / "V0.1.X" / "DCAE", tmp_path / "codec", static=statics)
    assert open_model(out).index["kind"] == "codec" and load_codec(out).latent_shape == (84, 15, 30)


def edit(name: str, **changes: Any) -> Callable[[Path], None]:
    """Return a function that changes a configuration; None removes a field."""

    def change(root: Path) -> None:
        path = root / "V0.1.X" / name / "config.json"
        config = json.loads(path.read_text()) | changes
        path.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))

    return change


def reweigh(change: Callable[[dict[str, Tensor]], Any]) -> Callable[[Path], None]:
    """Return a function that changes the weights of the transformer."""

    def apply(root: Path) -> None:
        path = root / "V0.1.X" / "tiny" / WEIGHTS
        weights = load_file(path)
        change(weights)
        save_file(weights, path)

    return apply


def cut(root: Path) -> None:
    path = root / "V0.1.X" / "tiny" / WEIGHTS
    path.write_bytes(path.read_bytes()[:-1000])


def pickled(root: Path) -> None:
    (root / "V0.1.X" / "tiny" / WEIGHTS).rename(root / "V0.1.X" / "tiny" / "diffusion_pytorch_model.bin")


def second(root: Path) -> None:
    shutil.copytree(root / "V0.1.X" / "tiny", root / "V0.1.X" / "large")


def alone(root: Path) -> None:
    shutil.rmtree(root / "V0.1.X" / "DCAE")


DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "missing": (reweigh(lambda w: w.pop("proj_out.bias")), r"1 missing \(proj_out.bias\)"),
    "unknown": (reweigh(lambda w: w.update(a=torch.ones(2), b=torch.ones(1))), r"2 unknown \(a, b\)"),
    "mis-shaped": (
        reweigh(lambda w: w.update({"proj_out.bias": torch.ones(7)})),
        r"1 mis-shaped \(proj_out.bias \(7,\) instead of \(84,\)\)",
    ),
    "another depth": (edit("tiny", num_layers=2), r"\d+ missing \(transformer_blocks.1.*, …\)"),
    "not finite": (reweigh(lambda w: w["proj_out.bias"].fill_(torch.nan)), "weight proj_out.bias is not finite"),
    "cut short": (cut, "damaged or cut short"),
    "pickle": (pickled, "a pickle, which can run any code"),
    "class": (edit("tiny", _class_name="UNet2DModel"), "holds UNet2DModel, not the transformer"),
    "switch": (edit("tiny", nope=True), "nope must be False"),
    "option": (edit("DCAE", decoder_act_fns="gelu"), "decoder_act_fns must be 'silu'; got 'gelu'"),
    "field": (edit("DCAE", swish=True), "has swish, which the published network does not have"),
    "lacking": (edit("tiny", rope_axes_dim=None), "lacks rope_axes_dim"),
    "nonsense": (edit("tiny", num_attention_heads="many"), "config.json: "),
    "several": (second, "holds 2 of them .V0.1.X/large, V0.1.X/tiny.; choose with --transformer NAME"),
    "alone": (alone, "holds a transformer only; say where its autoencoder is with --autoencoder FOLDER"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_what_is_damaged_or_something_else_is_refused(
    published: Path, statics: Path, tmp_path: Path, case: str
) -> None:
    """One line that names the fault, and nothing is written."""
    change, words = DAMAGE[case]
    shutil.copytree(published, tmp_path / "source")
    change(tmp_path / "source")
    options = {"transformer": "V0.1.X/tiny"} if case == "class" else {}
    with pytest.raises(ValueError, match=words) as caught:
        convert_ladcast(tmp_path / "source", tmp_path / "out", static=statics, **options)
    assert "\n" not in str(caught.value) and [p.name for p in tmp_path.iterdir()] == ["source"]


def test_networks_that_do_not_fit_each_other_are_refused(published: Path, statics: Path, tmp_path: Path) -> None:
    """A transformer for other latents; an autoencoder for other channels, for which there are no statistics."""
    other = upstream.save_transformer(tmp_path / "t", in_channels=8, out_channels=8, conditioning_tensor_in_channels=8)
    with pytest.raises(ValueError, match="latents of 8 channels on 15 x 30; this autoencoder makes 84 channels"):
        convert_ladcast(published / "V0.1.X" / "DCAE", tmp_path / "out", transformer=other, static=statics)
    small = upstream.save_autoencoder(tmp_path / "a", in_channels=14, out_channels=14, static_channels=2)
    with pytest.raises(ValueError, match="has 12 data, 2 static and 84 latent channels; the published statistics are"):
        convert_ladcast(small, tmp_path / "out", static=statics)
    assert not (tmp_path / "out").exists()


def test_wishes_that_cannot_be_met_are_one_line(published: Path, statics: Path, tmp_path: Path, shared: Path) -> None:
    """No static fields, another type, a sub-folder or a source that is not there, a folder of something else."""
    out = tmp_path / "out"
    (tmp_path / "empty").mkdir()
    for options, words in (
        ({"static": None}, "five static fields .* not part of the weights; give --static"),
        ({"dtype": "int8"}, "dtype must be one of float32, bfloat16, float16; got 'int8'"),
        ({"transformer": "375M"}, "--transformer 375M: .* has V0.1.X/DCAE, V0.1.X/tiny"),
        ({"source": tmp_path / "empty"}, "holds no network of LaDCast: no config.json of AutoencoderDC or LaDCast"),
        ({"source": tmp_path / "none"}, "no such folder, and no name on the hub"),
        ({"source": statics / "orography.nc"}, "is a file; give the folder"),
        ({"static": tmp_path / "none.nc"}, "none.nc"),
    ):
        arguments: dict[str, Any] = {"source": published, "static": statics} | options
        with pytest.raises(ValueError, match=words) as caught:
            convert_ladcast(arguments.pop("source"), out, **arguments)
        assert "\n" not in str(caught.value) and not out.exists()
    with pytest.raises(ValueError, match="holds AutoencoderDC, not the transformer of LaDCast"):
        load_ladcast_transformer(published / "V0.1.X" / "DCAE")


def test_the_hub_gives_json_and_safetensors_only(
    published: Path, converted: Path, statics: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """First the configurations, then the weights of the chosen networks; the card names the commit."""
    asked: list[str] = []
    snapshot = tmp_path / "snapshots" / "0123456789abcdef"
    shutil.copytree(published, snapshot)

    def download(name: str, allow_patterns: list[str], **_: Any) -> str:
        assert name == "someone/ladcast"
        asked.extend(allow_patterns)
        return str(snapshot)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    out = convert_ladcast("someone/ladcast", tmp_path / "out", static=statics)
    assert all(pattern.endswith((".json", ".safetensors")) for pattern in asked)
    assert asked[-2:] == ["V0.1.X/DCAE/*.safetensors", "V0.1.X/tiny/*.safetensors"]
    assert "someone/ladcast @ 0123456789ab, V0.1.X/tiny" in (out / "README.md").read_text()
    assert open_model(out).digest == open_model(converted).digest


def test_without_a_network_the_hub_is_one_line(statics: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No connection, no such repository: a line that says what was tried."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    def fail(*_: Any, **__: Any) -> str:
        raise LocalEntryNotFoundError("Got: ConnectError\nAn error happened while trying to locate the files")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    with pytest.raises(ValueError, match="someone/ladcast: no such folder, and the hub did not give it .Got: Conn"):
        convert_ladcast("someone/ladcast", tmp_path / "out", static=statics)
    assert not list(tmp_path.iterdir())
