"""Calls of the dual-stream transformer: what is computed once, in what precision, by which kernel, on what device."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from tiny_dual_stream import COLUMNS, ROWS, build, inputs

from diffusion.dual_stream import DualStreamTransformer
from diffusion.georope import GeoRoPE


@pytest.mark.parametrize("refiners", [0, 1, 2])
def test_conditions_prepared_once_give_the_same_output(refiners: int) -> None:
    """prepare() then any number of noise levels equals the direct calls, exactly; one condition serves a batch."""
    network, arguments = build(num_refiner_layers=refiners), inputs()
    once = network.prepare(arguments["cond"], arguments["hours"])
    with torch.no_grad():
        for level in (-1.0, 0.3):
            c_noise = torch.full((2,), level, dtype=torch.float64)
            direct = network(**{**arguments, "c_noise": c_noise})
            assert torch.equal(network(arguments["x"], c_noise, conditions=once), direct)
        shared = network.prepare(arguments["cond"][:1], arguments["hours"][:1])
        batch = network(arguments["x"], 0.3, conditions=shared)
        cond, when = arguments["cond"][:1].expand(2, -1, -1, -1, -1), arguments["hours"][:1].expand(2)
        expected = network(arguments["x"], torch.full((2,), 0.3, dtype=torch.float64), cond, when)
        torch.testing.assert_close(batch, expected, rtol=0, atol=1e-12)


def test_positions_are_turned_into_angles_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls with the same numbers of frames share one table; it is no part of the saved state."""
    network, arguments, calls = build(), inputs(), []
    original = GeoRoPE.angles
    monkeypatch.setattr(GeoRoPE, "angles", lambda self, *a: calls.append(1) or original(self, *a))
    network(**arguments)
    first = len(calls)
    network(**arguments)
    copy.deepcopy(network)(**arguments)
    assert len(calls) == first > 0
    assert list(network.buffers()) == []
    assert set(network.state_dict()) == {name for name, _ in network.named_parameters()}


def test_checkpointing_keeps_loss_and_gradients() -> None:
    """Recomputing blocks in the backward pass gives the same gradients, exactly."""
    gradients = []
    for recompute in (False, True):
        network = build()
        if recompute:
            network.enable_gradient_checkpointing()
        network.train()(**inputs()).square().mean().backward()
        gradients.append([p.grad for p in network.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_autocast_keeps_output_and_gradients_near_float32() -> None:
    """bfloat16 autocast on the CPU, as in training: some ten layers of 2^-9 rounding stay below 3 % of the norm."""
    results = []
    for enabled in (False, True):
        network, arguments = build().float(), inputs()
        arguments = {k: v.float() if v.is_floating_point() else v for k, v in arguments.items()}
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            output = network(**arguments)
        output.float().square().mean().backward()
        gradient = torch.cat([p.grad.flatten() for p in network.parameters()])
        results.append((output.detach().float(), gradient))
    for exact, rough in zip(*results, strict=True):
        assert rough.dtype == torch.float32
        assert (rough - exact).norm() < 0.03 * exact.norm()


def test_a_saved_network_is_read_back(tmp_path: Path) -> None:
    """save_pretrained and from_pretrained keep configuration and weights: equal output."""
    network, arguments = build(patch_size=2), inputs()
    network.save_pretrained(tmp_path)
    restored = DualStreamTransformer.from_pretrained(tmp_path, torch_dtype=torch.float64)
    with torch.no_grad():
        assert torch.equal(restored(**arguments), network(**arguments))


def test_attention_backends_give_the_same_network() -> None:
    """Plain matrix products against PyTorch's kernel: 1e-12 in float64; an unknown name is refused."""
    network, arguments = build(), inputs()
    with torch.no_grad():
        outputs = []
        for backend in ("sdpa", "matmul"):
            network.use_attention(backend)
            outputs.append(network(**arguments))
    torch.testing.assert_close(*outputs, rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="unknown attention backend"):
        network.use_attention("fast")


def test_the_compiler_traces_the_network_in_one_piece() -> None:
    """No graph breaks under autocast, conditions prepared before; rounding of the rotations to bfloat16 apart (2 %),
    the traced form gives the same."""
    network, arguments = build(design="ladcast", location="none").float(), inputs()
    x, cond, c_noise = (arguments[name].float() for name in ("x", "cond", "c_noise"))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        once = network.prepare(cond, arguments["hours"])
        plain = network(x, c_noise, conditions=once)
        traced = torch.compile(network, backend="eager", fullgraph=True)(x, c_noise, conditions=once)
    assert (traced - plain).norm() < 0.02 * plain.norm()


def test_what_no_one_reads_is_not_computed() -> None:
    """After the last single block only the target is read: condition tokens are keys and values there, no queries."""
    network, arguments = build(num_single_layers=2), inputs()
    shapes: list[int] = []
    for block in network.single_transformer_blocks:
        block.proj_mlp.register_forward_hook(lambda _, given, out: shapes.append(out.shape[1]))
    with torch.no_grad():
        plain = network(**arguments)
        tokens, target = (2 + 1) * ROWS * COLUMNS, 2 * ROWS * COLUMNS
        assert shapes == [tokens, target]
        last = network.single_transformer_blocks[1]
        original = type(last).forward
        last.forward = lambda x, condition, tables, count: original(last, x, condition, tables)
        torch.testing.assert_close(network(**arguments), plain, rtol=0, atol=1e-13)


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["sdpa", "flash", "xformers"])
def test_the_network_runs_in_bfloat16_on_an_accelerator(backend: str) -> None:
    """Weights in bfloat16 on the accelerator against float64 on the CPU: below 5 % of the norm."""
    from gen.nn.attention import available_backends

    if backend not in available_backends("cuda"):
        pytest.skip(f"{backend} does not work on this machine")
    network, arguments = build(), inputs()
    with torch.no_grad():
        exact = network(**arguments)
        network = network.to("cuda", torch.bfloat16)
        network.use_attention(backend)
        moved = {k: v.cuda().bfloat16() if k in ("x", "cond") else v.cuda() for k, v in arguments.items()}
        rough = network(**{**moved, "c_noise": moved["c_noise"].float()}).double().cpu()
    assert (rough - exact).norm() < 0.05 * exact.norm()


@pytest.mark.gpu
def test_an_evaluation_never_waits_for_the_accelerator() -> None:
    """Once tables are there and conditions prepared, no call asks the device for a value, and a CUDA graph records it:
    the graph's output on new input equals the direct one, exactly."""
    network, arguments = build(design="ladcast", location="none").float().cuda(), inputs()
    x, cond, c_noise = (arguments[name].float().cuda() for name in ("x", "cond", "c_noise"))
    with torch.no_grad(), torch.autocast("cuda", torch.bfloat16, cache_enabled=False):
        once = network.prepare(cond, arguments["hours"].cuda())
        side = torch.cuda.Stream()
        with torch.cuda.stream(side):
            for _ in range(3):
                network(x, c_noise, conditions=once)
        torch.cuda.current_stream().wait_stream(side)
        torch.cuda.set_sync_debug_mode("error")
        try:
            network(x, c_noise, conditions=once)
            network(x, 0.3, conditions=once)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            recorded = network(x, c_noise, conditions=once)
        x.copy_(x.flip(0))
        graph.replay()
        torch.testing.assert_close(recorded, network(x, c_noise, conditions=once), rtol=0, atol=0)
