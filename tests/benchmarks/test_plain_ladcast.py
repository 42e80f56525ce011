"""The plain statement of LaDCast's networks: what ours are timed against computes the same."""

from __future__ import annotations

import importlib
import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest
import torch
from numpy import datetime64, int64
from safetensors.torch import load_file

from autoencoders.dcae import DCAE
from diffusion.dual_stream import DualStreamTransformer

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
FP32_PARITY = 1e-5


@pytest.fixture(scope="module")
def plain() -> ModuleType:
    """Return the module, which is no part of a package."""
    spec = importlib.util.spec_from_file_location("plain_ladcast", FOLDER / "plain_ladcast.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@torch.no_grad()
def test_the_transformer_is_ours(plain: ModuleType) -> None:
    """Random weights on the published grid, two dates and noise levels, one or two known frames: 1e-5."""
    torch.manual_seed(0)
    network = DualStreamTransformer(
        6, 6, 6, [(-83.25 + 12 * i) for i in range(15)], [5.25 + 12 * i for i in range(30)], num_attention_heads=2,
        attention_head_dim=16, num_layers=2, num_single_layers=2, num_refiner_layers=2, mlp_ratio=2.0,
        rope_axes_dim=[4, 6, 6], location="none", design="ladcast",
    ).eval()  # fmt: skip
    g = torch.Generator().manual_seed(1)
    x, hours, c_noise = (
        torch.randn(2, 6, 4, 15, 30, generator=g),
        torch.tensor([420_000, 423_457]),
        torch.tensor([-1, 1.0]),
    )
    for known in (1, 2):
        cond = torch.randn(2, 6, known, 15, 30, generator=g)
        found = plain.plain_transformer(network.state_dict(), x, c_noise, cond, hours, 2, (4, 6, 6))
        torch.testing.assert_close(found, network(x, c_noise, cond, hours), rtol=0, atol=FP32_PARITY)


@torch.no_grad()
def test_the_codec_is_ours(plain: ModuleType) -> None:
    """Random weights, both kinds of blocks and both changes of resolution: latent and all fields within 1e-5."""
    torch.manual_seed(0)
    model = DCAE(
        6, 6, 1, 4, 8, [8, 16, 16], [1, 1, 1], ["ResBlock", "EfficientViTBlock", "EfficientViTBlock"], [[], [5], [5]],
        padding="ladcast",
    ).eval()  # fmt: skip
    g = torch.Generator().manual_seed(1)
    x, static = torch.randn(2, 5, 16, 24, generator=g), torch.randn(1, 16, 24, generator=g)
    z = model.encode(x, static)
    torch.testing.assert_close(plain.plain_encode(model.state_dict(), x, static, 8), z, rtol=0, atol=FP32_PARITY)
    fields = model.decode(z, return_static=True)
    torch.testing.assert_close(plain.plain_decode(model.state_dict(), z, 8), fields, rtol=0, atol=FP32_PARITY)


@torch.no_grad()
def test_both_are_the_originals(plain: ModuleType, shared: Path) -> None:
    """Against recorded outputs of the original with its random weights: 1e-5 (fp32)."""
    folder = shared / "fixtures" / "ladcast"
    weights, io = (load_file(folder / f"dcae_tiny_{kind}.safetensors") for kind in ("weights", "io"))
    dim = json.loads((folder / "dcae_tiny_config.json").read_text())["attention_head_dim"]
    assert (plain.plain_encode(weights, io["x"], io["static"], dim) - io["latent"]).abs().max() <= FP32_PARITY
    assert (plain.plain_decode(weights, io["latent"], dim) - io["recon_with_static"]).abs().max() <= FP32_PARITY
    weights, io = (load_file(folder / f"transformer_tiny_{kind}.safetensors") for kind in ("weights", "io"))
    config = json.loads((folder / "transformer_tiny_config.json").read_text())
    dates = [str(date) for date in io["dates_int64"].tolist()]
    moments = [datetime64(f"{d[:4]}-{d[4:6]}-{d[6:8]}T{d[8:]}", "h").astype(int64) for d in dates]
    found = plain.plain_transformer(
        weights, io["x"], io["timestep_c_noise"], io["cond_1frame"], torch.tensor([int(m) for m in moments]),
        config["num_attention_heads"], tuple(config["rope_axes_dim"]),
    )  # fmt: skip
    assert (found - io["y_cond1"]).abs().max() <= FP32_PARITY


@pytest.mark.parametrize(
    ("part", "size", "gigaflops"),
    [("network", "375M", 979), ("network", "1.6B", 4155), ("encode", "375M", 695), ("decode", "375M", 781)],
)
def test_the_floor_counts_what_the_plain_statement_multiplies(
    monkeypatch: pytest.MonkeyPatch, part: str, size: str, gigaflops: int
) -> None:
    """FLOPs of the published sizes, counted by others on the original's modules: equal to the digits given."""
    monkeypatch.syspath_prepend(str(FOLDER))
    sizes = importlib.import_module("ladcast_sizes")
    assert round(sizes.flops(part, size) / 1e9) == gigaflops
