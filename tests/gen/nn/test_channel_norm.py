"""The channel norm against its definition."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from gen.nn.channel_norm import ChannelRMSNorm


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_equals_the_norm_of_torch_on_moved_channels(memory: torch.memory_format) -> None:
    """The result equals torch's RMSNorm over the last axis plus the bias (fp64, rounding only)."""
    generator = torch.Generator().manual_seed(0)
    norm = ChannelRMSNorm(5, eps=1e-3).double()
    torch.nn.init.normal_(norm.weight, generator=generator)
    torch.nn.init.normal_(norm.bias, generator=generator)
    x = torch.randn(2, 5, 3, 4, dtype=torch.float64, generator=generator).contiguous(memory_format=memory)
    expected = F.rms_norm(x.movedim(1, -1), (5,), norm.weight, 1e-3) + norm.bias
    assert torch.allclose(norm(x), expected.movedim(-1, 1), atol=1e-14)


def test_derivatives_are_exact() -> None:
    """Analytic and numerical derivatives agree for input, weight and bias, also at the zero vector (fp64)."""
    norm = ChannelRMSNorm(3, eps=0.1).double()
    x = torch.randn(2, 3, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    x[0, :, 0, 0] = 0
    x.requires_grad_()

    def call(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(norm, {"weight": weight, "bias": bias}, (x,))

    assert torch.autograd.gradcheck(call, (x, norm.weight, norm.bias))


@pytest.mark.parametrize(
    ("given", "weights", "result"),
    [
        (torch.bfloat16, torch.float32, torch.float32),
        (torch.bfloat16, torch.bfloat16, torch.bfloat16),
        (torch.float32, torch.float32, torch.float32),
    ],
)
def test_statistics_are_wide_and_the_result_has_the_wider_type(
    given: torch.dtype, weights: torch.dtype, result: torch.dtype
) -> None:
    """Statistics are exact to float32: the mean square of 512 channels is 1 within the rounding of a float32 sum
    (sqrt(512) roundings of 1.2e-7 is 2.7e-6) or one rounding of the result's own type."""
    norm = ChannelRMSNorm(512, eps=0.0).to(weights)
    x = (3 * torch.randn(1, 512, 2, 2, generator=torch.Generator().manual_seed(2))).to(given).requires_grad_()
    y = norm(x)
    y.sum().backward()
    assert y.dtype == result and x.grad is not None and x.grad.dtype == given
    assert norm.weight.grad is not None and norm.weight.grad.dtype == weights
    assert (y.float().square().mean(1) - 1).abs().max() <= max(2.7e-6, torch.finfo(result).eps)
