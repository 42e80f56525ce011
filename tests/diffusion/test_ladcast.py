"""Parity with LaDCast (arXiv 2506.09193): the published design against upstream's outputs with random weights."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from diffusion.denoiser import Denoiser
from diffusion.dual_stream import DualStreamTransformer
from diffusion.ladcast import ladcast_config
from diffusion.precondition import EDM
from diffusion.samplers import build_sampler

TOLERANCE = 2e-5  # upstream differs from itself by 6e-7; float32 sums in another order


@pytest.fixture(scope="module")
def network(shared: Path) -> DualStreamTransformer:
    """Return the tiny network with upstream's random weights, all of them and no others."""
    folder = shared / "fixtures" / "ladcast"
    model = DualStreamTransformer(**ladcast_config(json.loads((folder / "transformer_tiny_config.json").read_text())))
    model.load_state_dict(load_file(folder / "transformer_tiny_weights.safetensors"), strict=True)
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def io(shared: Path) -> dict[str, Tensor]:
    return load_file(shared / "fixtures" / "ladcast" / "transformer_tiny_io.safetensors")


@pytest.fixture(scope="module")
def edm(shared: Path) -> dict[str, Tensor]:
    return load_file(shared / "fixtures" / "ladcast" / "edm.safetensors")


def hours(dates: Tensor) -> Tensor:
    """Turn YYYYMMDDHH into hours since 1970."""
    times = [datetime.strptime(str(d), "%Y%m%d%H") for d in dates.tolist()]
    return torch.tensor([(t - datetime(1970, 1, 1)) // timedelta(hours=1) for t in times], dtype=torch.int64)


@pytest.mark.parametrize(
    ("output", "cond", "dated"),
    [("y_cond1", "cond_1frame", True), ("y_cond2", "cond_2frame", True), ("y_cond1_nodates", "cond_1frame", False)],
)
def test_outputs_equal_upstream(
    network: DualStreamTransformer, io: dict[str, Tensor], output: str, cond: str, dated: bool
) -> None:
    """One and two known frames, with and without a date: 2e-5."""
    when = hours(io["dates_int64"]) if dated else None
    y = network(io["x"], io["timestep_c_noise"], io[cond], when)
    torch.testing.assert_close(y, io[output], rtol=0, atol=TOLERANCE)


def test_one_noise_level_and_date_serve_a_batch(network: DualStreamTransformer, io: dict[str, Tensor]) -> None:
    """A scalar c_noise and one date are broadcast like upstream's: 2e-5."""
    y = network(io["x"], io["timestep_c_noise"][0], io["cond_1frame"], hours(io["dates_int64"])[:1])
    torch.testing.assert_close(y, io["y_cond1_scalar_t_and_date_broadcast"], rtol=0, atol=TOLERANCE)


def test_intermediate_results_equal_upstream(network: DualStreamTransformer, io: dict[str, Tensor]) -> None:
    """Embedders, refiner, condition vector, season and the streams after every block: 2e-5."""
    seen: dict[str, Tensor] = {}
    count, last = io["x_embedder"].shape[1], f"single{len(network.single_transformer_blocks) - 1}"

    def keep(name: str):
        def hook(_module, _inputs, out) -> None:
            if name.startswith("dual"):
                seen[f"{name}.hidden"], seen[f"{name}.ctx"] = out
            elif name == last:
                seen[f"{name}.hidden"] = out  # nothing reads the condition after it, so it is not computed
            elif name.startswith("single"):
                seen[f"{name}.hidden"], seen[f"{name}.ctx"] = out[:, :count], out[:, count:]
            else:
                seen[name] = out

        return hook

    modules = {
        "x_embedder": network.x_embedder,
        "context_embedder": network.context_embedder,
        "refiner_temb": network.context_refiner.time_text_embed,
        "context_refiner": network.context_refiner,
        "time_text_embed": network.time_text_embed,
        "time_elapsed_embed_out": network.time_elapsed_embed,
        **{f"dual{i}": block for i, block in enumerate(network.transformer_blocks)},
        **{f"single{i}": block for i, block in enumerate(network.single_transformer_blocks)},
    }
    handles = [module.register_forward_hook(keep(name)) for name, module in modules.items()]
    network(io["x"], io["timestep_c_noise"], io["cond_1frame"], hours(io["dates_int64"]))
    for handle in handles:
        handle.remove()
    assert len(seen) == len(modules) + 3
    for name, value in seen.items():
        torch.testing.assert_close(value, io[name], rtol=0, atol=TOLERANCE, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_heun_samples_equal_upstream(network: DualStreamTransformer, edm: dict[str, Tensor], steps: int) -> None:
    """Deterministic Heun sampling from given noise, with the state in float64 like upstream's.

    1e-4, of the sample's standard deviation where that is above 1: two steps of an untrained network reach 218.
    """
    sampler = build_sampler("heun", steps, dtype=torch.float64)
    cond = {"cond": edm["known"], "hours": hours(edm["date_int64"])}
    sample = sampler(Denoiser(network, EDM(0.5)), edm["init_noise_seed0_1"], cond)
    expected = edm[f"edm_heun_out_{steps}steps"]
    torch.testing.assert_close(sample.float(), expected, rtol=0, atol=1e-4 * max(1.0, float(expected.std())))


def test_denoised_training_batch_equals_upstream(
    network: DualStreamTransformer, io: dict[str, Tensor], edm: dict[str, Tensor]
) -> None:
    """The denoiser at upstream's noise levels on its training batch: 1e-4, outputs are scaled by sigma_data at most."""
    sigma = edm["train_sigma"]
    noisy = edm["train_clean"] + sigma[:, None, None, None, None] * edm["train_noise"]
    cond = {"cond": io["cond_1frame"], "hours": hours(io["dates_int64"])}
    torch.testing.assert_close(
        Denoiser(network, EDM(0.5))(noisy, sigma, **cond), edm["train_denoised"], rtol=0, atol=1e-4
    )


@pytest.mark.parametrize(("size", "parameters"), [("375M", 374_938_452), ("1.6B", 1_605_496_660)])
def test_published_sizes_have_the_published_parameters(shared: Path, size: str, parameters: int) -> None:
    """Names, shapes and number of the published checkpoints, on the meta device."""
    manifest = json.loads((shared / "manifests" / f"ladcast_manifest_{size}.json").read_text())
    with torch.device("meta"):
        model = DualStreamTransformer(**ladcast_config(manifest["resolved_config_as_saved_in_config.json"]))
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert list(model.buffers()) == []
    shapes = {name: list(value.shape) for name, value in model.state_dict().items()}
    assert shapes == {name: entry["shape"] for name, entry in manifest["parameters"].items()}


def test_published_weights_are_read_from_their_folder(
    network: DualStreamTransformer, io: dict[str, Tensor], tmp_path: Path
) -> None:
    """A folder with translated configuration and upstream's tensor names opens through diffusers: equal output."""
    network.save_pretrained(tmp_path)
    restored = DualStreamTransformer.from_pretrained(tmp_path)
    arguments = (io["x"][:1], io["timestep_c_noise"][:1], io["cond_1frame"][:1])
    assert torch.equal(restored(*arguments), network(*arguments))


def test_switches_that_no_published_weights_use_are_refused(shared: Path) -> None:
    """An unknown form of the network is an error, not a wrong forecast."""
    config = json.loads((shared / "fixtures" / "ladcast" / "transformer_tiny_config.json").read_text())
    with pytest.raises(ValueError, match="nope must be False"):
        ladcast_config({**config, "nope": True})
    with pytest.raises(ValueError, match="must share rope_axes_dim"):
        ladcast_config({**config, "conditioning_tensor_rope_axes_dim": [8, 8, 16]})
