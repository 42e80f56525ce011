"""gen.info: facts come from headers, not from weights or values."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import nn

import gen.train
from gen.data.variables import parse_channel
from gen.grid import LatLonGrid
from gen.hub import HubError, save_model
from gen.info import run_info
from gen.writers.spec import FileSpec
from gen.writers.staged import StagedWriter


class Net(ModelMixin, ConfigMixin):
    @register_to_config
    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 2)


RECIPES = """
from dataclasses import dataclass
from torch import nn

@dataclass
class Params:
    width: int = 4

class Without:
    Params = Params

class With(Without):
    @staticmethod
    def networks(params):
        return {"body": nn.Linear(params.width, 1_000_000)}
"""


def test_a_model_folder_is_described_with_exact_parameter_counts(tmp_path: Path) -> None:
    """3 x 2 weights and 2 biases are 8 parameters; the hash is the folder's."""
    from gen.hub import open_model

    folder = save_model(tmp_path / "m", {"net": Net()}, {"kind": "toy"}, documents={"extra": {"a": list(range(20))}})
    text = "\n".join(run_info(str(folder)))
    assert "Net, 8 parameters, 2 tensors" in text
    assert open_model(folder).digest in text
    assert "kind               toy" in text and "20 items" in text


def test_a_damaged_model_is_refused(tmp_path: Path) -> None:
    """Facts of a folder whose bytes changed are not told."""
    folder = save_model(tmp_path / "m", {"net": Net()}, {})
    (folder / "model_index.json").write_text("{}")
    with pytest.raises(HubError, match="damaged"):
        run_info(str(folder))


@pytest.mark.parametrize("latent", [None, (2, 1, 2)])
def test_a_file_is_described(tmp_path: Path, latent: tuple[int, int, int] | None) -> None:
    """Members, starts, leads, grid, channels and provenance; a latent file says what it is."""
    spec = FileSpec(
        channels=(parse_channel("z500"), parse_channel("2t")),
        grid=LatLonGrid.equiangular(4, 8, poles=False),
        members=2,
        inits=np.array(["2024-01-01"], "datetime64[h]"),
        leads=np.arange(1, 6) * np.timedelta64(6, "h"),
        attrs={"seed": "3", "codec_hash": "abc"},
        latent=latent,
    )
    path = tmp_path / ("a.zarr" if latent else "a.nc")
    with StagedWriter(path, spec, "latent" if latent else "netcdf", "test") as writer:
        writer.write(0, slice(0, 2), np.zeros((2, 5, *spec.value_shape), np.float32))
        writer.commit(0, slice(0, 2))
    text = "\n".join(run_info(str(path)))
    assert "seed               3" in text
    if latent:
        assert "latents; gen decode" in text
    else:
        assert "members            2" in text and "5: 6 h, 12 h, …, 30 h" in text
        assert "4 x 8, -67.5 to 67.5, 0 to 315 degrees, global" in text and "2: z500, 2t" in text


def test_networks_of_a_configuration_are_counted_without_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """4 x 10^6 weights and 10^6 biases, on the meta device; a recipe that needs its data says so."""
    (tmp_path / "recipes_to_count.py").write_text(RECIPES)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(gen.train.RECIPES, "with", "recipes_to_count:With")
    monkeypatch.setitem(gen.train.RECIPES, "without", "recipes_to_count:Without")
    config = tmp_path / "run.yaml"
    config.write_text("recipe: with\n")
    assert any("Linear, 5,000,000 (5.0 million) parameters" in line for line in run_info(config=config))
    config.write_text("recipe: without\n")
    with pytest.raises(ValueError, match=r"run\.yaml: recipe = without: its networks depend on its data"):
        run_info(config=config)
    config.write_text("recipe: other\n")
    with pytest.raises(ValueError, match="no such recipe"):
        run_info(config=config)


def test_one_thing_has_to_be_named() -> None:
    """Nothing, or two things: one line with the choice."""
    with pytest.raises(ValueError, match="name one thing"):
        run_info()
    with pytest.raises(ValueError, match="there is no model 'demoo'; did you mean 'demo'"):
        run_info("demoo")


def test_the_codec_of_a_configuration_is_counted_as_it_is_built(tmp_path: Path) -> None:
    """The count equals that of the same autoencoder built with memory; the data need not exist."""
    from autoencoders.dcae import DCAE

    network = {
        "latent_channels": 4,
        "attention_head_dim": 8,
        "encoder_block_types": ["ResBlock", "ResBlock"],
        "decoder_block_types": ["ResBlock", "ResBlock"],
        "encoder_block_out_channels": [8, 16],
        "decoder_block_out_channels": [8, 16],
        "encoder_layers_per_block": [1, 1],
        "decoder_layers_per_block": [1, 1],
        "encoder_qkv_multiscales": [[], []],
        "decoder_qkv_multiscales": [[], []],
    }
    config = tmp_path / "codec.yaml"
    params = {"data": "nowhere.zarr", "upper": ["geopotential"], "levels": [500, 850], "surface": ["2m_temperature"]}
    config.write_text(json.dumps({"recipe": "codec", "params": {**params, "principal": False, "dcae": network}}))
    built = DCAE(in_channels=5, out_channels=5, static_channels=2, vector_channels=[], **network)  # 3 fields, 2 statics
    count = sum(p.numel() for p in built.parameters())
    assert f"DCAE, {count:,} parameters" in "\n".join(run_info(config=config))
