"""Windows over large fields: every pixel once, no seam, the same windows for every crop."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffusion.tiling import Blended, ramp, spans


@pytest.mark.parametrize("length", [1, 15, 16, 64, 100, 257])
@pytest.mark.parametrize("origin", [0, 7, 48, 1000])
@pytest.mark.parametrize(("window", "overlap"), [(64, 16), (64, 0), (33, 16)])
def test_windows_cover_the_field_and_their_weights_sum_to_one(
    length: int, origin: int, window: int, overlap: int
) -> None:
    """A partition of unity: rise and fall of neighbours are sin^2 and cos^2 of the same angle."""
    total = torch.zeros(length, dtype=torch.float64)
    for span in spans(length, window, overlap, origin):
        assert 0 <= span.start < span.stop <= length and span.stop - span.start <= window
        total[span] += ramp(span, length, overlap, dtype=torch.float64)
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-12)


def test_two_crops_are_cut_into_the_same_windows() -> None:
    """Windows away from the edges have the same coordinates in the domain."""
    found = []
    for origin, length in ((0, 400), (96, 250)):
        found.append({(s.start + origin, s.stop + origin) for s in spans(length, 64, 16, origin)[1:-1]})
    assert found[1] and found[1] <= found[0]


def test_an_overlap_of_half_a_window_is_refused() -> None:
    """Three windows would then share a pixel."""
    with pytest.raises(ValueError, match="below half of the window 64; got 32"):
        spans(100, 64, 32)


class Smooth(nn.Module):
    """A stand-in: adds the known field and the 3 x 3 mean."""

    def forward(self, x: Tensor, sigma: Tensor | float, alpha: Tensor | float = 1.0, *, known: Tensor) -> Tensor:
        return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False) + known + sigma


def test_blending_a_local_estimate_changes_it_at_no_pixel_that_windows_share_deeply() -> None:
    """A denoiser of reach one is reproduced up to the ramp's smallest weight; a pointwise one exactly."""
    generator, kind = torch.Generator().manual_seed(0), {"dtype": torch.float64}
    x = torch.randn(2, 3, 100, 130, generator=generator, **kind)
    known = torch.rand(1, 1, 100, 130, generator=generator, **kind)
    whole, blended = Smooth()(x, 0.5, known=known), Blended(Smooth(), 48, 16)(x, 0.5, known=known)
    error = (whole - blended).abs()
    assert float(error.max()) < 0.01 * float(whole.std())  # the outermost pixel of a window has weight sin^2(pi/64)

    def pointwise(x: Tensor, sigma: float, alpha: float = 1.0, *, known: Tensor) -> Tensor:
        return 2 * x + known

    torch.testing.assert_close(Blended(pointwise, 48, 16)(x, 0.5, known=known), 2 * x + known, rtol=0, atol=1e-14)


def test_crops_agree_inside() -> None:
    """Two crops of one domain give the same estimate where their windows are the same."""
    x = torch.randn(1, 1, 300, 300, generator=torch.Generator().manual_seed(1))
    results = []
    for top, left in ((0, 0), (64, 32)):
        crop = x[..., top : top + 220, left : left + 220]
        known = torch.zeros(1, 1, *crop.shape[-2:])
        blended = Blended(Smooth(), 64, 16, (top, left))(crop, 0.0, known=known)
        full = torch.full((300, 300), torch.nan)
        full[top : top + 220, left : left + 220] = blended[0, 0]
        results.append(full[128:192, 128:192])
    assert torch.equal(*results)
