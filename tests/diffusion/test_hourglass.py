"""The hourglass transformer is local: crops agree, nothing looks across the field, attention knows kilometres."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from diffusion.georope import MetricRoPE
from diffusion.hourglass import HourglassTransformer, LocalAttention
from gen.nn.attention import available_backends
from gen.nn.rotary import rotary_table, rotate


def tiny(**changes: Any) -> HourglassTransformer:
    """Return a small network whose layers all have weights: nothing hides behind a zero gate."""
    torch.manual_seed(0)
    settings: dict[str, Any] = {
        "in_channels": 2,
        "out_channels": 1,
        "cond_channels": 3,
        "cond_features": 4,
        "widths": (4, 8, 16),
        "depths": (1, 1, 2),
        "head_dim": 8,
        "window": 4,
        "halo": 2,
    }
    network = HourglassTransformer(**{**settings, **changes}).double().eval().requires_grad_(False)
    for name, parameter in network.named_parameters():
        if not bool(parameter.abs().sum()):
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name))))
    return network


def inputs(rows: int = 96, columns: int = 128) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "x": torch.randn(2, 2, rows, columns, generator=generator, dtype=torch.float64),
        "c_noise": torch.tensor([0.2, 0.9]),
        "fields": torch.randn(1, 3, rows, columns, generator=generator, dtype=torch.float64),
        "features": torch.randn(1, 4, generator=generator, dtype=torch.float64),
    }


def test_nothing_beyond_its_reach_changes_a_pixel() -> None:
    """One changed pixel changes its neighbours, and none farther than `reach`."""
    network, given = tiny(depths=(1, 1, 1)), inputs(96, 320)
    before = network(**given)
    given["x"][..., 40, 30] += 5.0
    changed = (network(**given) - before).abs().sum((0, 1)) > 0
    rows, columns = torch.nonzero(changed, as_tuple=True)
    distance = torch.maximum((rows - 40).abs(), (columns - 30).abs())
    assert 8 < int(distance.max()) <= network.reach < 280


def test_crops_that_start_at_whole_windows_agree_inside() -> None:
    """Away from its edges a crop gives what the whole field gives, to rounding: sizes do not matter."""
    network, given = tiny(depths=(1, 1, 1)), inputs(320, 352)
    whole = network(**given)
    a = network.align
    assert a == 16
    crop = {k: v[..., 2 * a : 18 * a, a:] if v.ndim == 4 else v for k, v in given.items()}
    inside, outside = network(**crop), whole[..., 2 * a : 18 * a, a:]
    r = network.reach
    assert inside.shape[-2] > 2 * r
    torch.testing.assert_close(inside[..., r:-r, r:-r], outside[..., r:-r, r:-r], rtol=0, atol=1e-12)


def test_position_enters_as_differences_only() -> None:
    """Moving the whole field by 1,000 km changes nothing; stretching it does."""
    network, given = tiny(), inputs(32, 32)
    north, east = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    place = torch.stack([-north, east]).double()
    base = network(**given, place_km=place)
    torch.testing.assert_close(network(**given, place_km=place + 1000.0), base, rtol=0, atol=1e-9)
    torch.testing.assert_close(network(**given), base, rtol=0, atol=1e-9)  # one kilometre a pixel by default
    assert float((network(**given, place_km=2 * place) - base).abs().max()) > 1e-4


@pytest.mark.parametrize(("rows", "columns"), [(8, 8), (7, 10), (3, 17)])
def test_local_attention_is_attention_with_a_mask(rows: int, columns: int) -> None:
    """Against the plain formula over all tokens, with everything outside window and halo masked: float64 rounding."""
    torch.manual_seed(0)
    window, halo, heads, d = 4, 2, 2, 8
    layer = LocalAttention(heads * d, d, window, halo).double()
    x = torch.randn(2, rows, columns, heads * d, dtype=torch.float64)
    north, east = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    table = rotary_table(MetricRoPE(d).angles(north, east), torch.float64)[None, None]
    q, k, v = layer.to_qkv(x).unflatten(-1, (3, heads, d)).permute(3, 0, 4, 1, 2, 5)
    q, k = (rotate(norm(t), table).flatten(2, 3) for norm, t in ((layer.norm_q, q), (layer.norm_k, k)))
    i, j = north.flatten(), east.flatten()

    def near(a: Tensor) -> Tensor:
        begin = a // window * window
        return (a[None] >= (begin - halo)[:, None]) & (a[None] < (begin + window + halo)[:, None])

    logits = (q @ k.mT / d**0.5).masked_fill(~(near(i) & near(j)), -torch.inf)
    out = torch.softmax(logits, dim=-1) @ v.flatten(2, 3)
    expected = layer.to_out(out.transpose(1, 2).flatten(2)).unflatten(1, (rows, columns))
    torch.testing.assert_close(layer(x, table), expected, rtol=0, atol=1e-10)


def test_the_network_starts_at_zero_and_every_parameter_learns() -> None:
    """At initialisation the output is zero; after two steps every parameter has a gradient."""
    torch.manual_seed(0)
    network = HourglassTransformer(2, 1, 3, 4, widths=(4, 8, 16), depths=(1, 1, 2), head_dim=8, window=4, halo=2)
    given = {k: v.float() for k, v in inputs(32, 32).items()}
    assert not bool(network(**given).any())
    optimiser = torch.optim.SGD(network.parameters(), lr=0.1)
    for _ in range(4):
        optimiser.zero_grad()
        (network(**given) - 1).square().mean().backward()
        optimiser.step()
    silent = [n for n, p in network.named_parameters() if p.grad is None or not bool(p.grad.abs().sum())]
    assert not silent


def test_metric_rope_turns_once_per_wavelength() -> None:
    """The first pair of each axis has the shortest wavelength, the last the longest; axes do not mix."""
    rope = MetricRoPE(16, shortest_km=4.0, longest_km=256.0)
    angles = rope.angles(torch.tensor([4.0]), torch.tensor([256.0]))[0] / (2 * torch.pi)
    assert float(angles[0]) == pytest.approx(1.0) and float(angles[3]) == pytest.approx(4 / 256)
    assert float(angles[4]) == pytest.approx(64.0) and float(angles[7]) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"halo": 3}, "halo must be positive and divide the window 4; got 3"),
        ({"head_dim": 6}, "head_dim must be a multiple of 4 that divides 16; got 6"),
        ({"depths": (1, 2)}, "widths and depths need the same length"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny(**changes)


def test_a_field_that_tokens_do_not_tile_is_refused() -> None:
    with pytest.raises(ValueError, match="multiples of 4; got 30 x 32"):
        tiny()(**inputs(30, 32))


def test_attention_backends_agree() -> None:
    """Every backend of this machine gives the same field, to rounding; unknown ones are refused."""
    network, given = tiny(), inputs(40, 56)
    exact = network(**given)
    for backend in available_backends("cpu", torch.float64):
        network.use_attention(backend)
        torch.testing.assert_close(network(**given), exact, rtol=0, atol=1e-11)
    with pytest.raises(ValueError, match="fast"):
        network.use_attention("fast")


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["sdpa", "matmul", "flash", "xformers"])
def test_the_network_runs_in_bfloat16_on_an_accelerator(backend: str) -> None:
    """Under autocast on the accelerator against float64 on the CPU: below 5 % of the norm."""
    if backend not in available_backends("cuda"):
        pytest.skip(f"{backend} does not work on this machine")
    network, given = tiny(), inputs(40, 56)
    exact = network(**given)
    network, moved = network.float().cuda(), {k: v.float().cuda() for k, v in given.items()}
    network.use_attention(backend)
    with torch.autocast("cuda", torch.bfloat16):
        if backend == "flash":
            with pytest.raises(ValueError, match="takes no mask"):
                network(**moved)
            return
        rough = network(**moved).double().cpu()
    assert (rough - exact).norm() < 0.05 * exact.norm()
