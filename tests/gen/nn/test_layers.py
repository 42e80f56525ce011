"""Layers against their formulas and against the reference's intermediate results."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from gen.nn.layers import EmbeddingMLP, FeedForward, Modulation, RMSNorm, modulate, timestep_features


def random(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def test_rms_norm_gives_unit_mean_square_whatever_the_scale() -> None:
    """mean(y^2) = 1 and y(c x) = y(x) for c > 0 without eps; 1e-14 in float64."""
    norm, x = RMSNorm(16, eps=0.0).double(), random(3, 5, 16)
    torch.testing.assert_close(norm(x).square().mean(-1), torch.ones(3, 5).double(), rtol=0, atol=1e-14)
    torch.testing.assert_close(norm(1000 * x), norm(x), rtol=1e-14, atol=0)


def test_rms_norm_in_half_precision_computes_in_float32() -> None:
    """The result of a bfloat16 input is float32 with float32 error: no digits are lost in the mean square."""
    norm, x = RMSNorm(64), random(4, 64).bfloat16()
    y = norm(x)
    assert y.dtype == torch.float32
    exact = x.double() * torch.rsqrt(x.double().square().mean(-1, keepdim=True) + norm.eps)
    torch.testing.assert_close(y.double(), exact.detach(), rtol=1e-6, atol=0)


def test_modulation_of_zero_is_a_layer_norm_and_its_moments_are_shift_and_scale() -> None:
    """LN(x)(1 + s) + b has mean b and standard deviation |1 + s| for constant s and b; eps gives 1e-5."""
    x, shift, scale = random(2, 7, 64), torch.full((2, 1, 64), 0.3).double(), torch.full((2, 1, 64), -0.6).double()
    y = modulate(x, shift, scale)
    torch.testing.assert_close(y.mean(-1), torch.full((2, 7), 0.3).double(), rtol=0, atol=1e-12)
    torch.testing.assert_close(y.std(-1, correction=0), torch.full((2, 7), 0.4).double(), rtol=1e-5, atol=0)


def test_modulation_parts_are_slices_of_one_linear_layer() -> None:
    """Part i of n is rows [i D, (i + 1) D) of Linear(silu(c)), the order of the published weights; exact."""
    layer, condition = Modulation(8, 6), random(3, 8, dtype=torch.float32)
    whole = layer.linear(nn.functional.silu(condition))
    for i, part in enumerate(layer(condition)):
        assert torch.equal(part[:, 0], whole[:, 8 * i : 8 * (i + 1)])


@pytest.mark.parametrize(("name", "activation"), [("gelu", nn.GELU(approximate="tanh")), ("silu", nn.SiLU())])
def test_feed_forward_is_linear_activation_linear(name: str, activation: nn.Module) -> None:
    """The composition written out, and the parameter names of diffusers; exact."""
    layer, x = FeedForward(8, 24, activation=name), random(2, 5, 8, dtype=torch.float32)
    state = layer.state_dict()
    hidden = activation(x @ state["net.0.proj.weight"].T + state["net.0.proj.bias"])
    expected = hidden @ state["net.2.weight"].T + state["net.2.bias"]
    torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="'gelu' or 'silu'"):
        FeedForward(8, 24, activation="relu")


def test_timestep_features_are_points_on_circles() -> None:
    """Each frequency gives a point (cos, sin) of the unit circle; the first turns at `scale` rad per unit."""
    t = torch.tensor([-1.5, 0.0, 0.7], dtype=torch.float64)
    cosine, sine = timestep_features(t, 64, scale=32.0).chunk(2, dim=-1)
    torch.testing.assert_close(cosine**2 + sine**2, torch.ones(3, 32).double(), rtol=0, atol=1e-14)
    torch.testing.assert_close(cosine[:, 0], (32 * t).cos(), rtol=0, atol=1e-14)
    torch.testing.assert_close(sine[:, -1], (32 * t * 10000 ** (-31 / 32)).sin(), rtol=0, atol=1e-14)


def test_timestep_features_equal_the_reference(shared: Path) -> None:
    """Features of c_noise as LaDCast makes them, cosines first: 1e-6."""
    fixture = load_file(shared / "fixtures" / "ladcast" / "time_embeddings.safetensors")
    actual = timestep_features(fixture["c_noise"])
    torch.testing.assert_close(actual, fixture["timestep_proj_256"], rtol=0, atol=1e-6)


def test_embedding_of_zero_weights_is_the_bias() -> None:
    """Linear(silu(b1)) with zero first weights does not depend on the input: the formula's limit."""
    layer = EmbeddingMLP(4, 8)
    nn.init.zeros_(layer.linear_1.weight)
    expected = layer.linear_2(nn.functional.silu(layer.linear_1.bias))
    torch.testing.assert_close(layer(random(3, 4, dtype=torch.float32)), expected.expand(3, -1), rtol=0, atol=1e-6)
    assert math.isfinite(float(expected.detach().sum()))
