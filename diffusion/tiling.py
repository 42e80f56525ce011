r"""Large fields through a network of limited size: overlapping windows, blended at every evaluation.

The estimates of neighbouring windows are averaged with raised-cosine weights, so that one path is walked for the whole
field and no seam can form (Bar-Tal et al. 2023, arXiv:2302.08113, with smooth weights). Windows lie on a lattice that
is anchored at the origin of the whole domain: two crops of it are cut into the same windows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["Blended", "ramp", "spans"]

import torch
from torch import Tensor


def spans(length: int, window: int, overlap: int, origin: int = 0) -> list[slice]:
    """Cut 0 … length into windows of a lattice.

    Args:
        length: pixels.
        window: side of a window.
        overlap: pixels that neighbours share, below half of the window.
        origin: coordinate of pixel 0 in the domain the lattice belongs to.

    Returns:
        Slices in ascending order that cover every pixel; the first and the last may be cut short.

    Raises:
        ValueError: an overlap that is negative or not below half of the window.
    """
    if not 0 <= 2 * overlap < window:
        raise ValueError(f"overlap must be at least 0 and below half of the window {window}; got {overlap}")
    step = window - overlap
    first, last = (origin - window) // step + 1, (origin + length - 1) // step
    edges = [(max(k * step - origin, 0), min(k * step + window - origin, length)) for k in range(first, last + 1)]
    # a window of which no more than the overlap is left is covered by its neighbour
    return [slice(*e) for e in edges if e[1] - e[0] > overlap] or [slice(0, length)]


def ramp(span: slice, length: int, overlap: int, **kind: Any) -> Tensor:
    """Return the raised-cosine weights of a window: they rise and fall over `overlap`, but not at the field's edges."""
    count = span.stop - span.start
    weights = torch.ones(count, **kind)
    if overlap:
        rise = torch.sin(torch.pi / 2 * (torch.arange(overlap, **kind) + 0.5) / overlap).square()
        size = min(overlap, count)
        if span.start > 0:
            weights[:size] *= rise[:size]
        if span.stop < length:
            weights[count - size :] *= rise.flip(0)[overlap - size :]
    return weights


class Blended:
    """Stand in for a denoiser on fields that are larger than one evaluation should be.

    Args:
        denoiser: called as `denoiser(x, sigma, alpha, **cond)`. window, overlap: see `spans`.
        origin: row and column of the first pixel in the whole domain.
    """

    def __init__(self, denoiser: Any, window: int, overlap: int, origin: tuple[int, int] = (0, 0)) -> None:
        spans(1, window, overlap)
        self.denoiser, self.window, self.overlap, self.origin = denoiser, window, overlap, origin

    def __call__(self, x: Tensor, sigma: Tensor | float, alpha: Tensor | float = 1.0, **cond: Any) -> Tensor:
        """Estimate the clean fields [B, C, H, W]; conditions with the same H and W are cut like x."""
        rows, columns = (spans(n, self.window, self.overlap, o) for n, o in zip(x.shape[-2:], self.origin, strict=True))
        if len(rows) == len(columns) == 1:
            estimate: Tensor = self.denoiser(x, sigma, alpha, **cond)
            return estimate
        total = torch.zeros_like(x, dtype=torch.promote_types(x.dtype, torch.float32))
        weight = torch.zeros(x.shape[-2:], dtype=total.dtype, device=x.device)
        for row in rows:
            for column in columns:
                place = (..., row, column)
                estimate = self.denoiser(x[place], sigma, alpha, **_cut(cond, x.shape[-2:], row, column))
                shape = self._weights(row, column, total)
                total[place] += shape * estimate
                weight[place] += shape
        return total / weight

    def _weights(self, row: slice, column: slice, x: Tensor) -> Tensor:
        kind = {"dtype": x.dtype, "device": x.device}
        height, width = x.shape[-2:]
        return ramp(row, height, self.overlap, **kind)[:, None] * ramp(column, width, self.overlap, **kind)


def _cut(cond: Mapping[str, Any], shape: torch.Size, row: slice, column: slice) -> dict[str, Any]:
    """Return the conditions of a window."""
    return {
        name: value[..., row, column] if isinstance(value, Tensor) and value.shape[-2:] == shape else value
        for name, value in cond.items()
    }
