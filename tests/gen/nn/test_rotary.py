"""Rotary embedding: a rotation, relative, equal to the matrix form and to the reference."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from gen.nn.rotary import apply_rotary, rotary_table, rotate


def random(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def test_rotation_equals_the_matrix_form() -> None:
    """Each pair is multiplied by [[cos, -sin], [sin, cos]]: block matrices written out, 1e-14 in float64."""
    x, angles = random(2, 3, 5, 8), random(5, 4, seed=1)
    expected = torch.empty_like(x)
    for n in range(5):
        blocks = [torch.tensor([[a.cos(), -a.sin()], [a.sin(), a.cos()]], dtype=torch.float64) for a in angles[n]]
        expected[:, :, n] = x[:, :, n] @ torch.block_diag(*blocks).T
    torch.testing.assert_close(apply_rotary(x, angles), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-4)])
def test_scalar_products_depend_on_differences_only(dtype: torch.dtype, tolerance: float) -> None:
    """q(a + d).k(b + d) = q(a).k(b) for shifts of some 100 rad: the last bit of an angle is 3e-14, of float32 6e-8."""
    q, k = random(1, 1, 7, 64, dtype=dtype), random(1, 1, 7, 64, dtype=dtype, seed=1)
    a, b, shift = random(7, 32, seed=2), random(7, 32, seed=3), 100 * random(1, 32, seed=4)
    before = apply_rotary(q, a) @ apply_rotary(k, b).mT
    after = apply_rotary(q, a + shift) @ apply_rotary(k, b + shift).mT
    assert (before - after).abs().max() < tolerance


def test_norms_are_preserved_and_zero_angles_change_nothing() -> None:
    """A rotation keeps the norm (core test 6: 1e-6 in float32); the angle zero is the identity, exactly."""
    x = random(2, 3, 5, 8, dtype=torch.float32)
    torch.testing.assert_close(apply_rotary(x, random(5, 4)).norm(dim=-1), x.norm(dim=-1), rtol=1e-6, atol=0)
    assert torch.equal(apply_rotary(x, torch.zeros(5, 4)), x)


def test_half_precision_is_rotated_in_float32() -> None:
    """The error of a bfloat16 input is one rounding of the output, half a unit in the last of 8 bits."""
    x, angles = random(1, 2, 5, 8).bfloat16(), 50 * random(5, 4)
    exact = apply_rotary(x.double(), angles)
    out = apply_rotary(x, angles)
    assert out.dtype == torch.bfloat16
    assert ((out.double() - exact).abs() <= 2.0**-8 * exact.abs() + 1e-6).all()


def test_gradient_is_the_inverse_rotation() -> None:
    """d(g.Rx)/dx = R^T g, the rotation by the negative angle; 1e-14 in float64."""
    x, g, angles = random(1, 2, 5, 8).requires_grad_(), random(1, 2, 5, 8, seed=1), random(5, 4, seed=2)
    (gradient,) = torch.autograd.grad(apply_rotary(x, angles), x, g)
    torch.testing.assert_close(gradient, apply_rotary(g, -angles), rtol=0, atol=1e-14)


def test_rotation_equals_the_reference(shared: Path) -> None:
    """Queries rotated by upstream LaDCast with its own tables: 1e-6 in float32."""
    fixture = load_file(shared / "fixtures" / "ladcast" / "georope_15x30.safetensors")
    angles = torch.atan2(fixture["pred_sin"].double(), fixture["pred_cos"].double())[:, ::2]
    torch.testing.assert_close(apply_rotary(fixture["q"], angles), fixture["q_rotated"], rtol=0, atol=1e-6)


def test_tables_broadcast_over_heads_in_any_layout() -> None:
    """[B, N, heads, D] with a table [N, 1, D/2] equals [B, heads, N, D], exactly."""
    x, angles = random(2, 5, 3, 8), random(5, 4, seed=1)
    table = rotary_table(angles, torch.float64)[:, None]
    assert torch.equal(rotate(x, table), apply_rotary(x.transpose(1, 2), angles).transpose(1, 2))


def test_the_compiler_sees_the_same_rotation_in_real_numbers() -> None:
    """Traced without a break: the form with sines and cosines equals the product of complex numbers, 1e-15 (fp64)."""
    x, table = random(2, 5, 3, 8), rotary_table(random(5, 4, seed=1), torch.float64)[:, None]
    traced = torch.compile(rotate, backend="eager", fullgraph=True)
    torch.testing.assert_close(traced(x, table), rotate(x, table), rtol=0, atol=2e-15)


def test_shapes_that_do_not_fit_are_refused() -> None:
    """An error that names both shapes instead of a broadcast."""
    with pytest.raises(ValueError, match=r"\[N, D/2\]"):
        apply_rotary(random(1, 2, 5, 8), random(1, 4))
