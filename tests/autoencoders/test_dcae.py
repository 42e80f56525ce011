"""The autoencoder against published weights, its symmetries and its own files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from autoencoders.blocks import linear_attention
from autoencoders.dcae import DCAE

FP32_PARITY = 2e-5  # documented for independent fp32 implementations: another order of the sums


def small(**changes: Any) -> DCAE:
    """Return an autoencoder with three stages and both kinds of blocks, with weights from seed 0."""
    torch.manual_seed(0)
    settings: dict[str, Any] = {
        "in_channels": 6,
        "out_channels": 6,
        "static_channels": 1,
        "latent_channels": 4,
        "attention_head_dim": 8,
        "encoder_block_out_channels": [8, 16, 16],
        "encoder_layers_per_block": [1, 1, 1],
        "encoder_block_types": ["ResBlock", "ResBlock", "EfficientViTBlock"],
        "encoder_qkv_multiscales": [[], [], [5]],
        "vector_channels": [1, 2],
    }
    return DCAE(**{**settings, **changes}).eval()


def fields(seed: int = 0, grid: tuple[int, int] = (12, 24)) -> tuple[Tensor, Tensor]:
    """Return data [2, 5, H, W] and static [1, H, W]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, 5, *grid, generator=generator), torch.randn(1, *grid, generator=generator)


@pytest.fixture(scope="module")
def published(shared: Path) -> tuple[DCAE, dict[str, Tensor]]:
    """Return the small published configuration with its weights, and its inputs and outputs."""
    folder = shared / "fixtures" / "ladcast"
    model = DCAE.from_config(json.loads((folder / "dcae_tiny_config.json").read_text()), padding="ladcast")
    model.load_state_dict(load_file(folder / "dcae_tiny_weights.safetensors"), strict=True)
    return model.eval(), load_file(folder / "dcae_tiny_io.safetensors")


@torch.no_grad()
def test_every_layer_reproduces_the_published_one(published: tuple[DCAE, dict[str, Tensor]]) -> None:
    """Outputs of the first convolution, of every block, the latent and the reconstruction agree with the fixture."""
    model, io = published
    found: dict[str, Tensor] = {}

    def record(name: str) -> Any:
        return lambda module, args, output: found.__setitem__(name, output)

    hooks = [model.encoder.conv_in.register_forward_hook(record("enc.conv_in"))]
    hooks += [b.register_forward_hook(record(f"enc.down{i}")) for i, b in enumerate(model.encoder.down_blocks)]
    hooks += [b.register_forward_hook(record(f"dec.up{i}")) for i, b in enumerate(model.decoder.up_blocks)]
    found["latent"] = model.encode(io["x"], io["static"])
    found["recon_with_static"] = model.decode(io["latent"], return_static=True)
    found["recon"] = model.decode(io["latent"])
    for hook in hooks:
        hook.remove()
    assert set(found) == set(io) - {"x", "static"}
    errors = {name: float((found[name] - io[name]).abs().max()) for name in found}
    assert max(errors.values()) <= FP32_PARITY, errors


def test_full_configuration_has_the_published_parameters(shared: Path) -> None:
    """Names, shapes and number of parameters (256,411,145) are those of the published 84-channel codec."""
    manifest = json.loads((shared / "manifests" / "ladcast_manifest_dcae.json").read_text())
    with torch.device("meta"):
        model = DCAE.from_config(manifest["resolved_config_as_saved_in_config.json"], padding="ladcast")
    shapes = {name: list(value.shape) for name, value in model.state_dict().items()}
    assert shapes == {name: entry["shape"] for name, entry in manifest["parameters"].items()}
    assert sum(p.numel() for p in model.parameters()) == 256_411_145


@torch.no_grad()
@pytest.mark.parametrize("padding", ["sphere", "ladcast"])
def test_coding_commutes_with_rotation_about_the_axis(padding: str) -> None:
    """Turning the globe by whole latent cells turns the latent and the reconstruction. Bit for bit without attention;
    attention sums over all points in another order (fp32: 1e-5)."""
    x, static = fields()
    for kinds, tolerance in ((["ResBlock"] * 3, 0.0), (["ResBlock", "ResBlock", "EfficientViTBlock"], 1e-5)):
        model = small(padding=padding, encoder_block_types=kinds)
        z, y = model(x, static)
        for cells in (1, 3):
            turned_z, turned_y = model(x.roll(4 * cells, -1), static.roll(4 * cells, -1))
            assert (turned_z - z.roll(cells, -1)).abs().max() <= tolerance
            assert (turned_y - y.roll(4 * cells, -1)).abs().max() <= tolerance


@torch.no_grad()
def test_vector_channels_change_the_polar_rows_only() -> None:
    """The sign over the pole acts through the first and the last convolution: without blocks between them, and with a
    latent that is the first layer's, rows away from the pole are untouched (fp32, bit for bit)."""
    shape: dict[str, Any] = {"encoder_block_out_channels": [8], "encoder_layers_per_block": [0],
                             "encoder_block_types": None, "encoder_qkv_multiscales": None}  # fmt: skip
    plain, vector = small(vector_channels=[], **shape), small(**shape)
    vector.load_state_dict(plain.state_dict())
    x, static = fields()
    inside = slice(2, -2)
    z, other = plain.encode(x, static), vector.encode(x, static)
    assert torch.equal(z[:, :, inside], other[:, :, inside]) and not torch.allclose(z, other)
    y, other = plain.decode(z), vector.decode(z)
    assert torch.equal(y[:, :, 1:-1], other[:, :, 1:-1]) and torch.equal(y[:, [0, 3, 4]], other[:, [0, 3, 4]])
    assert (y - other)[:, 1:3, [0, -1]].abs().min(-1).values.min() > 0


@pytest.mark.parametrize("stages", [1, 2, 3, 4])
def test_each_stage_halves_the_grid(stages: int) -> None:
    """n stages compress each side by 2^(n-1), and decoding returns to the grid of the input."""
    widths = [8, 8, 16, 16][:stages]
    model = small(encoder_block_out_channels=widths, encoder_layers_per_block=[1] * stages,
                  encoder_block_types=None, encoder_qkv_multiscales=None)  # fmt: skip
    x, static = fields(grid=(24, 48))
    z, y = model(x, static)
    assert model.factor == 2 ** (stages - 1)
    assert z.shape[1:] == (4, 24 // model.factor, 48 // model.factor) and y.shape == x.shape


def test_without_static_channels_everything_is_decoded() -> None:
    """`static_channels=0` drops nothing (the published code returned an empty array)."""
    model = small(in_channels=5, out_channels=5, static_channels=0)
    x, _ = fields()
    assert model.decode(model.encode(x)).shape == x.shape


@torch.no_grad()
@pytest.mark.parametrize("padding", ["sphere", "ladcast", "plane"])
def test_decoding_some_channels_gives_slices_of_all(padding: str) -> None:
    """Channels in any order, wind components among them, are those of the whole reconstruction (fp32: 1e-6); static
    channels count only where they are asked for, and a channel that is not there is refused."""
    model = small(padding=padding)
    z = model.encode(*fields())
    whole = model.decode(z, return_static=True)
    assert torch.equal(model.decode(z), whole[:, :5])
    for chosen in ([2], [0, 1, 2], [4, 0, 2]):
        assert (model.decode(z, chosen) - whole[:, chosen]).abs().max() <= 1e-6
    assert (model.decode(z, [5, 1], return_static=True) - whole[:, [5, 1]]).abs().max() <= 1e-6
    for wrong in ([5], [-1], []):
        with pytest.raises(ValueError, match=r"channels must be numbers in \[0, 5\)"):
            model.decode(z, wrong)


def test_the_compiler_traces_encoder_and_decoder_in_one_piece() -> None:
    """No graph breaks under autocast, and the same numbers in the traced form; the channels of every array stay next to
    each other in memory through changes of resolution and attention."""
    model = small(encoder_block_out_channels=[8, 16], encoder_layers_per_block=[1, 1],
                  encoder_block_types=["ResBlock", "EfficientViTBlock"], encoder_qkv_multiscales=[[], [5]])  # fmt: skip
    x, static = fields()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        z = model.encode(x, static)
        assert torch.equal(torch.compile(model.encode, backend="eager", fullgraph=True)(x, static), z)
        y = model.decode(z, [3, 0])
        assert torch.equal(torch.compile(model.decode, backend="eager", fullgraph=True)(z, [3, 0]), y)
    assert z.is_contiguous(memory_format=torch.channels_last) and y.is_contiguous(memory_format=torch.channels_last)


def test_inference_leaves_inputs_and_outputs_of_blocks_alone() -> None:
    """What is written in place is new: no block changes its input, and a second pass gives the same bits."""
    model, (x, static) = small(), fields()
    seen: list[tuple[Tensor, Tensor]] = []

    def keep(module: torch.nn.Module, given: tuple[Tensor, ...]) -> None:
        seen.append((given[0], given[0].clone()))

    blocks = [*model.encoder.down_blocks, *model.decoder.up_blocks]
    hooks = [block.register_forward_pre_hook(keep) for block in blocks]
    with torch.no_grad():
        first, again = model(x, static)[1], model(x, static)[1]
    for hook in hooks:
        hook.remove()
    assert len(seen) == 2 * len(blocks) and all(torch.equal(now, before) for now, before in seen)
    assert torch.equal(first, again)


def test_linear_attention_equals_the_quadratic_sum() -> None:
    """Reordering the product is exact: softmax-free attention with explicit scores gives the same (fp64 rounding)."""
    generator = torch.Generator().manual_seed(5)
    q, k, v = (torch.randn(2, 3, 30, 8, dtype=torch.float64, generator=generator) + 1 for _ in range(3))
    scores = torch.einsum("bhid,bhjd->bhij", q.relu(), k.relu())
    expected = torch.einsum("bhij,bhjd->bhid", scores / scores.sum(-1, keepdim=True), v)
    assert torch.allclose(linear_attention(q, k, v), expected, atol=1e-13)


def test_noise_reaches_the_decoder_alone() -> None:
    """`noise` changes what is decoded and leaves the returned latent as it was encoded."""
    model = small()
    x, static = fields()
    z, y = model(x, static, noise=lambda z: z + 1)
    assert torch.equal(z, model.encode(x, static)) and torch.equal(y, model.decode(z + 1))


def test_bfloat16_autocast_stays_near_float32_and_trains() -> None:
    """Under autocast the residual stream stays in float32: the relative error is a few bfloat16 roundings (2^-8), and
    every parameter receives a finite gradient."""
    model = small()
    x, static = fields()
    with torch.autocast("cpu", torch.bfloat16):
        z, y = model(x, static)
    y.float().square().mean().backward()
    exact = model(x, static)[1]
    assert (y.float() - exact).norm() / exact.norm() < 0.02
    assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in model.parameters())


@pytest.mark.gpu
def test_accelerator_agrees_with_the_processor() -> None:
    """The same weights and fields give the same latent and reconstruction on the accelerator: float32 within 1e-3 (TF32
    may be on), bfloat16 autocast within a few of its roundings."""
    model = small()
    x, static = fields()
    expected = torch.cat([part.flatten() for part in model(x, static)])
    model.cuda()
    for autocast, tolerance in ((False, 1e-3), (True, 0.03)):
        with torch.autocast("cuda", torch.bfloat16, enabled=autocast):
            parts = model(x.cuda(), static.cuda())
        found = torch.cat([part.float().cpu().flatten() for part in parts])
        assert (found - expected).norm() / expected.norm() < tolerance
        parts[1].float().square().mean().backward()
        assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in model.parameters())


@pytest.mark.gpu
@torch.no_grad()
def test_coding_never_waits_for_the_accelerator() -> None:
    """No layer asks the device for a value, chosen channels included, and arrays stay in channels_last order."""
    model, (x, static) = small().cuda(), (part.cuda() for part in fields())
    with torch.autocast("cuda", torch.bfloat16):
        model.decode(model.encode(x, static), [3, 0])
        torch.cuda.set_sync_debug_mode("error")
        try:
            z = model.encode(x, static)
            y = model.decode(z, [3, 0])
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert z.is_contiguous(memory_format=torch.channels_last) and y.is_contiguous(memory_format=torch.channels_last)


def test_a_few_steps_learn_a_field() -> None:
    """Adam halves the error of one sample in forty steps: gradients reach every part with the right sign."""
    model = small(encoder_block_out_channels=[8, 16], encoder_layers_per_block=[1, 1], encoder_block_types=None,
                  encoder_qkv_multiscales=None, latent_channels=16).train()  # fmt: skip
    x, static = fields()
    optimiser = torch.optim.Adam(model.parameters(), lr=5e-3)
    losses = []
    for _ in range(40):
        loss = (model(x, static)[1] - x).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_files_return_the_same_model(tmp_path: Path) -> None:
    """Saved and loaded through diffusers, configuration and outputs are the same bits."""
    model = small()
    model.save_pretrained(tmp_path)
    again = DCAE.from_pretrained(tmp_path).eval()
    x, static = fields()
    assert again.config["vector_channels"] == [1, 2] and again.factor == 4
    with torch.no_grad():
        assert torch.equal(again(x, static)[1], model(x, static)[1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"padding": "torus"}, "padding must be one of sphere, ladcast, plane; got 'torus'"),
        ({"latent_channels": 5}, "latent_channels must divide the width of the last stage, 16; got 5"),
        ({"encoder_layers_per_block": [1, 1]}, "every stage needs"),
        ({"encoder_block_out_channels": [8, 18, 16]}, "has no shortcut"),
        ({"encoder_block_types": ["ResBlock", "Block", "ResBlock"]}, "got 'Block'"),
        ({"static_channels": 6}, "at least one data channel; got 6"),
        ({"decoder_act_fns": "gelu"}, "decoder_act_fns must be 'silu'; got 'gelu'"),
        ({"attention_head_dim": 32}, "must not exceed the width of the block, 16; got 32"),
    ],
)
def test_stages_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    """Each rule of the configuration names the value and the rule."""
    with pytest.raises(ValueError, match=message):
        small(**changes)


def test_fields_that_do_not_fit_are_refused() -> None:
    """Wrong channel counts and grids raise before any arithmetic."""
    model = small()
    x, static = fields()
    with pytest.raises(ValueError, match="reads 6 channels, 1 of them static; got 5"):
        model.encode(x)
    with pytest.raises(ValueError, match="divisible by 4; got 10 x 24"):
        model.encode(x[:, :, :10], static[:, :10])
    with pytest.raises(ValueError, match="even number of latent columns; got 5"):
        model.encode(x[..., :20], static[..., :20])
    with pytest.raises(ValueError, match="reads 4 latent channels; got 3"):
        model.decode(torch.zeros(1, 3, 3, 6))
