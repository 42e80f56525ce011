"""Padding and convolution on the sphere against analytic continuation, symmetry and direct sums."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from gen.nn.sphere import SphereConv2d, sphere_pad

MODES = ("sphere", "ladcast", "plane")


def angles(rows: int, columns: int, beyond: int = 0) -> tuple[Tensor, Tensor]:
    """Return latitude [rows + 2 beyond, 1] and longitude [1, ...] of cell centres, carried on over the poles."""
    row = torch.arange(-beyond, rows + beyond, dtype=torch.float64)
    column = torch.arange(-beyond, columns + beyond, dtype=torch.float64)
    lat = -torch.pi / 2 + (row + 0.5) * torch.pi / rows
    return lat[:, None], (column * 2 * torch.pi / columns)[None]


def smooth_scalar(lat: Tensor, lon: Tensor) -> Tensor:
    """Return a polynomial of the Cartesian coordinates, which is smooth on the whole sphere."""
    x, y, z = lat.cos() * lon.cos(), lat.cos() * lon.sin(), lat.sin().expand(lat.shape[0], lon.shape[1])
    return 0.3 + x * y - 0.7 * z * x + 0.2 * z**3 + 0.5 * y * z**2


def solid_body_wind(lat: Tensor, lon: Tensor) -> tuple[Tensor, Tensor]:
    """Return eastward and northward wind of a rotation about a tilted axis: w x r on the local unit vectors."""
    wx, wy, wz = 0.8, -0.4, 0.6
    east = wz * lat.cos() - (wx * lon.cos() + wy * lon.sin()) * lat.sin()
    north = (wx * lon.sin() - wy * lon.cos()).expand(lat.shape[0], lon.shape[1])
    return east, north


@pytest.mark.parametrize("padding", [1, 2, 3])
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_padding_is_the_analytic_continuation_over_the_poles(padding: int, memory: torch.memory_format) -> None:
    """f(lat, lon) with latitude carried on beyond 90 degrees is f on the opposite meridian: a smooth scalar's padding
    equals its formula there. Tolerance: a few roundings of the trigonometric functions of shifted arguments (fp64)."""
    x = smooth_scalar(*angles(12, 20)).expand(2, 3, -1, -1).contiguous(memory_format=memory)
    expected = smooth_scalar(*angles(12, 20, beyond=padding))
    padded = sphere_pad(x, padding)
    assert (padded - expected).abs().max() <= 2e-15
    assert padded.is_contiguous(memory_format=memory)


def test_wind_components_continue_with_the_opposite_sign() -> None:
    """The unit vectors east and north both turn round beyond the pole: for a solid-body rotation the padding with sign
    -1 equals the formula of its components there, while sign +1 leaves a jump of the size of the wind itself."""
    east, north = solid_body_wind(*angles(12, 20))
    x = torch.stack([east, north, smooth_scalar(*angles(12, 20))])[None]
    outside = angles(12, 20, beyond=2)
    expected = torch.stack([*solid_body_wind(*outside), smooth_scalar(*outside)])
    padded = sphere_pad(x, 2, sign=torch.tensor([-1.0, -1.0, 1.0]))
    assert (padded[0] - expected).abs().max() <= 2e-15
    assert (sphere_pad(x, 2)[0] - expected).abs().max() > 1


@pytest.mark.parametrize("rows", [16, 32])
def test_wind_is_smooth_across_the_pole(rows: int) -> None:
    """The second difference of a smooth field along a meridian is O(spacing^2) on the polar rows too; without the sign
    it is O(1). |f''| <= 1.1 for this rotation, so spacing^2 * 1.1 bounds it (mean value theorem)."""
    east, north = solid_body_wind(*angles(rows, 2 * rows))
    x = torch.stack([east, north])[None]
    sign = -torch.ones(2)

    def bend(padded: Tensor) -> Tensor:
        column = padded[..., 1:-1]
        return (column[:, :, 2:] - 2 * column[:, :, 1:-1] + column[:, :, :-2])[:, :, [0, -1]].abs().max()

    assert bend(sphere_pad(x, 1, sign)) <= 1.1 * (torch.pi / rows) ** 2
    assert bend(sphere_pad(x, 1)) > 0.5


@pytest.mark.parametrize("mode", ["sphere", "ladcast"])
@pytest.mark.parametrize("kernel", [3, 5])
def test_convolution_commutes_with_rotation_about_the_axis(mode: str, kernel: int) -> None:
    """Rolling the longitudes and convolving are interchangeable, bit for bit: every column sees the same numbers in
    the same order."""
    generator = torch.Generator().manual_seed(0)
    vectors = [0, 3] if mode == "sphere" else []
    conv = SphereConv2d(5, 6, kernel, padding_mode=mode, vector_inputs=vectors, vector_outputs=vectors)
    x = torch.randn(2, 5, 12, 24, generator=generator)
    with torch.no_grad():
        for shift in (1, 7, 12):
            assert torch.equal(conv(x.roll(shift, -1)), conv(x).roll(shift, -1))


def direct_convolution(x: Tensor, conv: SphereConv2d, inputs: set[int], outputs: set[int]) -> Tensor:
    """Sum over the neighbours of every cell, found by walking over the pole."""
    batch, channels, height, width = x.shape
    p, y = conv.reach, torch.zeros(batch, conv.out_channels, height, width, dtype=x.dtype)
    for i in range(height):
        for di in range(-p, p + 1):
            row, over = i + di, not 0 <= i + di < height
            row = -1 - row if row < 0 else 2 * height - 1 - row if row >= height else row
            for dj in range(-p, p + 1):
                columns = (torch.arange(width) + dj + (width // 2 if over else 0)) % width
                weight = conv.weight[:, :, di + p, dj + p].clone()
                for index in inputs if over else ():
                    weight[:, index] *= -1
                for index in outputs if over else ():
                    weight[index] *= -1
                y[:, :, i] += torch.einsum("oc,bcj->boj", weight, x[:, :, row, columns])
    return y + conv.bias[:, None, None]


@pytest.mark.parametrize(("kernel", "inputs", "outputs"), [(3, [], []), (3, [1], [0, 2]), (5, [0, 2], [1])])
def test_convolution_equals_a_direct_sum_over_neighbours(kernel: int, inputs: list[int], outputs: list[int]) -> None:
    """Each output is the sum over the cells reached by steps north and east, over the pole where needed; from beyond it
    vector inputs are read, and vector outputs read, with the opposite sign. Tolerance: order of the sums, fp64."""
    conv = SphereConv2d(3, 3, kernel, vector_inputs=inputs, vector_outputs=outputs).double()
    x = torch.randn(2, 3, 6, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert (conv(x) - direct_convolution(x, conv, set(inputs), set(outputs))).abs().max() < 1e-13


def test_vector_to_vector_filter_ignores_the_sign() -> None:
    """Both signs cancel: a filter of vector components into vector components is the plain filter in the local frame.
    Tolerance: fp32 rounding of sums of products with flipped signs (none is expected)."""
    both = SphereConv2d(2, 2, 3, vector_inputs=[0, 1], vector_outputs=[0, 1])
    plain = SphereConv2d(2, 2, 3)
    plain.load_state_dict(both.state_dict())
    x = torch.randn(1, 2, 8, 12, generator=torch.Generator().manual_seed(2))
    assert torch.allclose(both(x), plain(x), atol=1e-6)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kernel", [3, 5])
def test_gradients_are_exact_at_the_polar_rows(mode: str, kernel: int) -> None:
    """Analytic and numerical derivatives agree for inputs and weights where the loss sees the polar rows alone (the
    published code loses these gradients). Tolerance: gradcheck's, fp64."""
    vectors = [1] if mode == "sphere" else []
    conv = SphereConv2d(2, 2, kernel, padding_mode=mode, vector_inputs=vectors, vector_outputs=vectors).double()
    x = torch.randn(1, 2, 4, 6, dtype=torch.float64, requires_grad=True, generator=torch.Generator().manual_seed(3))

    def polar_rows(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return torch.func.functional_call(conv, {"weight": weight, "bias": bias}, (x,))[:, :, [0, 1, -2, -1]]

    assert torch.autograd.gradcheck(polar_rows, (x, conv.weight, conv.bias))


def original_layer(x: Tensor, weight: Tensor, shown: Tensor) -> Tensor:
    """Convolve as LaDCast's own layer does; its polar rows read the kernel `shown`, there the weight's bare data."""
    padded = sphere_pad(x, 1)
    first = F.conv2d(padded[:, :, :3], torch.cat([shown[:, :, :1].flip(-1), shown[:, :, 1:]], dim=2))
    last = F.conv2d(padded[:, :, -3:], torch.cat([shown[:, :, :-1], shown[:, :, -1:].flip(-1)], dim=2))
    return torch.cat([first, F.conv2d(padded[:, :, 1:-1], weight), last], dim=2)


def test_the_original_loses_the_polar_gradients_and_ours_does_not() -> None:
    """LaDCast edits the kernel through `.data`, past autograd: the same outputs, but on six rows the weight's gradient
    is wrong by more than a quarter. Ours equals central differences of this cubic loss: error (eps^2) 1e-8, fp64."""
    generator = torch.Generator().manual_seed(7)
    conv = SphereConv2d(3, 4, 3, bias=False, padding_mode="ladcast").double()
    x = torch.randn(2, 3, 6, 12, dtype=torch.float64, generator=generator)
    probe = torch.randn(conv.weight.shape, dtype=torch.float64, generator=generator)

    def loss(y: Tensor) -> Tensor:
        return (y**2 + y**3 / 3).sum()

    assert torch.allclose(original_layer(x, conv.weight, conv.weight.data), conv(x), atol=1e-13)
    (ours,) = torch.autograd.grad(loss(conv(x)), conv.weight)
    (theirs,) = torch.autograd.grad(loss(original_layer(x, conv.weight, conv.weight.data)), conv.weight)
    (repaired,) = torch.autograd.grad(loss(original_layer(x, conv.weight, conv.weight)), conv.weight)
    with torch.no_grad():
        sides = [loss(original_layer(x, w, w)) for w in (conv.weight + 1e-4 * probe, conv.weight - 1e-4 * probe)]
    numerical = (sides[0] - sides[1]) / 2e-4
    assert abs((ours * probe).sum() / numerical - 1) < 1e-6
    assert torch.allclose(ours, repaired, rtol=1e-12)
    assert (theirs - ours).norm() / ours.norm() > 0.25


@pytest.mark.parametrize("mode", MODES)
def test_selected_outputs_are_slices_of_all(mode: str) -> None:
    """Output channels asked for, in any order, are those channels of the whole result, polar rows included (fp64:
    1e-14); channels that are not there, and groups, are refused."""
    vectors = [0, 2] if mode == "sphere" else []
    conv = SphereConv2d(3, 6, 3, padding_mode=mode, vector_outputs=vectors).double()
    x = torch.randn(1, 3, 6, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(8))
    with torch.no_grad():
        for chosen in ([0], [1, 2, 3], [5, 0, 2, 3], list(range(6))):
            assert torch.allclose(conv(x, chosen), conv(x)[:, chosen], rtol=0, atol=1e-14)
    with pytest.raises(ValueError, match=r"channels in \[0, 6\); got \[6\]"):
        conv(x, [6])
    with pytest.raises(ValueError, match="groups is 1; got groups 3"):
        SphereConv2d(3, 3, 3, groups=3)(x.float(), [0])


def test_padding_gradient_is_the_transpose() -> None:
    """<pad x, g> = <x, pad' g> for padding as wide as half the grid, with signs, in both memory formats (fp64)."""
    generator = torch.Generator().manual_seed(4)
    sign = torch.tensor([1.0, -1.0])
    for memory in (torch.contiguous_format, torch.channels_last):
        x = torch.randn(2, 2, 4, 6, dtype=torch.float64, generator=generator).contiguous(memory_format=memory)
        x.requires_grad_()
        padded = sphere_pad(x, 3, sign)
        g = torch.randn(padded.shape, dtype=torch.float64, generator=generator)
        (grad,) = torch.autograd.grad(padded, x, g)
        probe = torch.randn(x.shape, dtype=torch.float64, generator=generator)
        assert torch.allclose((sphere_pad(probe, 3, sign) * g).sum(), (probe * grad).sum(), rtol=1e-12)


def test_autocast_runs_in_bfloat16_with_float32_gradients() -> None:
    """Under autocast the padding casts in the same pass, the result is that of the cast input, and gradients return in
    the input's type. Tolerance: one bfloat16 rounding of sums (2^-8 relative)."""
    conv = SphereConv2d(4, 4, 3, vector_inputs=[0], vector_outputs=[1])
    x = torch.randn(1, 4, 6, 8, requires_grad=True, generator=torch.Generator().manual_seed(5))
    with torch.autocast("cpu", torch.bfloat16):
        y = conv(x)
    y.float().square().sum().backward()
    assert y.dtype == torch.bfloat16 and x.grad is not None and x.grad.dtype == torch.float32
    assert conv.weight.grad is not None and conv.weight.grad.dtype == torch.float32
    assert (y.float() - conv(x)).abs().max() < 0.02


def test_plane_mode_is_zero_padding() -> None:
    """ "plane" is the ordinary convolution with zeros outside."""
    conv = SphereConv2d(3, 4, 3, padding_mode="plane")
    x = torch.randn(1, 3, 5, 7, generator=torch.Generator().manual_seed(6))
    assert torch.equal(conv(x), F.conv2d(x, conv.weight, conv.bias, padding=1))


@pytest.mark.parametrize(("name", "groups", "bias"), [("k3", 1, True), ("k5", 6, False)])
def test_ladcast_mode_reproduces_the_published_layer(shared: Path, name: str, groups: int, bias: bool) -> None:
    """Padding is identical; outputs agree within 1e-6: sums of products of order 1 in another order (fp32)."""
    data = load_file(shared / "fixtures" / "ladcast" / "sphere_conv.safetensors")
    weight, x = data[f"{name}.weight"], data[f"{name}.x"]
    conv = SphereConv2d(x.shape[1], len(weight), weight.shape[-1], bias=bias, groups=groups, padding_mode="ladcast")
    conv.load_state_dict({"weight": weight, **({"bias": data[f"{name}.bias"]} if bias else {})})
    assert torch.equal(sphere_pad(x, weight.shape[-1] // 2), data[f"{name}.pad"])
    assert (conv(x) - data[f"{name}.y"]).abs().max() <= 1e-6


def test_wrong_arguments_are_named() -> None:
    """Odd widths, paddings beyond the grid, wrong signs, kernels, modes and channels each raise with the value."""
    x = torch.zeros(1, 2, 4, 7)
    with pytest.raises(ValueError, match="even number of columns; got 7"):
        sphere_pad(x, 1)
    with pytest.raises(ValueError, match="4 x 6; got 5"):
        sphere_pad(x[..., :6], 5)
    with pytest.raises(ValueError, match="one value per channel"):
        sphere_pad(x[..., :6], 1, torch.ones(3))
    with pytest.raises(ValueError, match="odd"):
        SphereConv2d(2, 2, 4)
    with pytest.raises(ValueError, match="'torus'"):
        SphereConv2d(2, 2, 3, padding_mode="torus")
    with pytest.raises(ValueError, match=r"\[0, 2\); got 2"):
        SphereConv2d(2, 2, 3, vector_inputs=[2])
