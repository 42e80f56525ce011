"""Rain between two radar frames, interpolated along its motion.

Averages of frames 10 or 15 minutes apart leave strings of beads where showers move by more than their size. Between
frames R_0 and R_1 that lie a displacement d apart, the rain at share s of the time is taken along the motion,

    R_s(x) = (1 - s) R_0(x - s d(x)) + s R_1(x + (1 - s) d(x)),

(Anagnostou & Krajewski 1999, doi 10.1175/1520-0426(1999)016<0189:RTRREP>2.0.CO;2). The displacement belongs to the
middle of the step. It is found on log(1 + R) of a coarsened grid: blocks are matched by normalised cross-correlation,
then least squares of the brightness equation refine the match (Lucas & Kanade 1981), symmetric in the two frames.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

__all__ = ["between", "interval_mean", "motion"]

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch.nn import functional

Field = NDArray[np.float32]

MOST_PIXELS = 40  # longest displacement of one step along either axis
COARSEST = 4  # pixels in one pixel of the grid on which motion is found
SIDE = 256  # pixels along the shorter side that remain after coarsening, where the field has as many
BLOCK, STRIDE = 32, 16  # coarse pixels
FLAT = 1e-3  # mean square of the structure in a block, log(1 + mm/h), below which it shows no motion
ALIKE = 0.3  # correlation from which a match counts
APART = 3.0  # coarse pixels from the median of its neighbours beyond which a match is dropped
WINDOW = 8.0  # coarse pixels; scale over which the refinement takes the motion as one
ROUNDS = 3
CALM = 1e-3  # added to the squared slopes of frames of unit mean square: no motion where nothing slopes


def motion(first: Field, second: Field) -> Field:
    """Return how far rain moves from one frame to the next.

    Args:
        first: [H, W] rates in mm/h, NaN where missing.
        second: the next frame, likewise.

    Returns:
        [2, H, W] displacement in pixels along rows and columns, at most `MOST_PIXELS` each and smooth; where it is dry
        it continues that of the rain around, and it is zero where nothing can be matched.

    Raises:
        ValueError: when the frames are no maps of one shape.
    """
    _check(first, second)
    factor = max(1, min(COARSEST, min(first.shape) // SIDE))
    a, b = (_structure(f, factor) for f in (first, second))
    found = _refined(a, b, _matched(a, b, MOST_PIXELS // factor))
    limited = np.clip(found * factor, -MOST_PIXELS, MOST_PIXELS)
    return _stretched(limited, factor, first.shape)


def between(first: Field, second: Field, shares: Sequence[float], displacement: Field) -> Iterator[Field]:
    """Yield the rain at shares of the time between two frames.

    Where the motion leads out of the map or to a missing pixel, the frames are mixed in place. A pixel that is missing
    in one of the frames is missing.

    Args:
        first: [H, W] rates in mm/h, NaN where missing.
        second: the next frame, likewise.
        shares: of the time since the first frame, 0 to 1; the frames themselves at the ends.
        displacement: [2, H, W] pixels, from `motion`.

    Yields:
        [H, W] rates in mm/h.

    Raises:
        ValueError: for a share outside 0 to 1 and for shapes that differ.
    """
    _check(first, second)
    if displacement.shape != (2, *first.shape):
        raise ValueError(f"the displacement must be [2, H, W] of the frames {first.shape}; got {displacement.shape}")
    if shares and not 0 <= min(shares) <= max(shares) <= 1:
        raise ValueError(f"shares of the time between two frames must be 0 to 1; got {list(shares)}")
    for share in shares:
        s, rest = np.float32(share), np.float32(1 - share)
        moved = rest * _pulled(first, displacement, -float(s)) + s * _pulled(second, displacement, float(rest))
        mixed = rest * first + s * second
        yield np.where(np.isfinite(moved) & np.isfinite(mixed), moved, mixed)


def interval_mean(first: Field, second: Field, substeps: int) -> Field:
    """Return the mean rain between two frames by the trapezoidal rule over `substeps` equal steps, [H, W] in mm/h."""
    total: Field = (first + second) * np.float32(0.5)
    if substeps > 1:
        shares = [k / substeps for k in range(1, substeps)]
        for frame in between(first, second, shares, motion(first, second)):
            total += frame
    mean: Field = total / np.float32(substeps)
    return mean


def _check(first: Field, second: Field) -> None:
    if first.ndim != 2 or first.shape != second.shape:
        raise ValueError(f"two frames must be maps [H, W] of one shape; got {first.shape} and {second.shape}")


def _pulled(field: Field, displacement: Field, share: float) -> Field:
    """Return the field at x + share d(x), bilinear; NaN beyond the map."""
    rows, columns = field.shape
    y = np.arange(rows, dtype=np.float32)[:, None] + np.float32(share) * displacement[0]
    x = np.arange(columns, dtype=np.float32) + np.float32(share) * displacement[1]
    outside = (y < 0) | (y > rows - 1) | (x < 0) | (x > columns - 1)
    scaled = np.stack([x * np.float32(2 / max(columns - 1, 1)) - 1, y * np.float32(2 / max(rows - 1, 1)) - 1], -1)
    source, places = torch.from_numpy(np.ascontiguousarray(field, np.float32)), torch.from_numpy(scaled)
    pulled = functional.grid_sample(source[None, None], places[None], padding_mode="border", align_corners=True)
    values: Field = pulled[0, 0].numpy()
    values[outside] = np.nan
    return values


def _structure(field: Field, factor: int) -> Field:
    """Return log(1 + rain) on the coarser grid less its mean over a block around; 0 where missing."""
    rows, columns = (n - n % factor for n in field.shape)
    cells = np.log1p(field[:rows, :columns]).reshape(rows // factor, factor, columns // factor, factor)
    coarse = cells.mean((1, 3))
    there = np.isfinite(coarse).astype(np.float32)
    filled = np.where(there > 0, coarse, 0).astype(np.float32)
    local = gaussian_filter(filled, BLOCK / 2) / np.maximum(gaussian_filter(there, BLOCK / 2), 1e-3)
    return (filled - local) * there


def _matched(a: Field, b: Field, reach: int) -> Field:
    """Return displacements [2, h, w] of blocks, matched by cross-correlation up to `reach`, filled and smoothed."""
    room = [(0, max(0, BLOCK - n) + -max(0, n - BLOCK) % STRIDE) for n in a.shape]
    a, b = np.pad(a, room), np.pad(b, [(reach, reach + after) for _, after in room])
    wide = BLOCK + 2 * reach
    blocks = sliding_window_view(a, (BLOCK, BLOCK))[::STRIDE, ::STRIDE]
    searched = sliding_window_view(b, (wide, wide))[::STRIDE, ::STRIDE]
    found = np.zeros((2, *blocks.shape[:2]), np.float32)
    trust = np.zeros(blocks.shape[:2], np.float32)
    for row in range(len(blocks)):
        busy = np.flatnonzero((blocks[row] ** 2).mean((1, 2)) > FLAT)
        if busy.size:
            found[:, row, busy], trust[row, busy] = _peaks(blocks[row, busy], searched[row, busy], reach)
    trust[(trust < ALIKE) | (np.abs(found).max(0) >= reach)] = 0
    trust[np.abs(found - _medians(found, trust > 0)).max(0) > APART] = 0
    smooth = _filled(found, trust)
    shape = (a.shape[0] - room[0][1], a.shape[1] - room[1][1])
    return _stretched(smooth, STRIDE, shape, (BLOCK - STRIDE) / 2)


def _peaks(blocks: Field, searched: Field, reach: int) -> tuple[Field, Field]:
    """Return where normalised correlations of blocks [n, B, B] in their surroundings peak, [2, n], and how high."""
    wide, count = searched.shape[-1], 2 * reach + 1
    surroundings = torch.from_numpy(np.ascontiguousarray(searched))
    frames = torch.from_numpy(np.ascontiguousarray(blocks))

    def correlated(kernel: torch.Tensor, field: torch.Tensor) -> torch.Tensor:
        spectra = torch.fft.rfft2(kernel, s=(wide, wide)).conj() * torch.fft.rfft2(field)
        return torch.fft.irfft2(spectra, s=(wide, wide))[:, :count, :count]

    energy = correlated(torch.ones(1, BLOCK, BLOCK), surroundings**2).clamp(min=FLAT * BLOCK**2)
    height = correlated(frames, surroundings) / (energy * (frames**2).sum((1, 2))[:, None, None]).sqrt()
    best, place = height.flatten(1).max(1)
    return np.stack([(place // count).numpy(), (place % count).numpy()]).astype(np.float32) - reach, best.numpy()


def _medians(found: Field, valid: NDArray[np.bool_]) -> Field:
    """Return medians of the valid matches among 5 x 5; the match itself where it is alone."""
    padded = np.pad(np.where(valid, found, np.nan), ((0, 0), (2, 2), (2, 2)), constant_values=np.nan)
    around = sliding_window_view(padded, (5, 5), axis=(1, 2)).reshape(*found.shape, 25)
    known = np.isfinite(around).any(-1)
    medians: Field = np.nanmedian(np.where(known[..., None], around, found[..., None]), -1)
    return medians


def _filled(found: Field, trust: Field) -> Field:
    """Return matches smoothed by their trust; far from all of them their mean."""
    weight = trust**2
    total = weight.sum()
    if total == 0:
        return np.zeros_like(found)
    near = gaussian_filter(weight, 1.0) + 1e-2 * gaussian_filter(weight, 4.0) + 1e-6
    parts = []
    for component in found:
        mean = (component * weight).sum() / total
        drawn = component * weight
        parts.append((gaussian_filter(drawn, 1.0) + 1e-2 * gaussian_filter(drawn, 4.0) + 1e-6 * mean) / near)
    return np.stack(parts)


def _refined(a: Field, b: Field, displacement: Field) -> Field:
    """Return the displacement after rounds of windowed least squares of the difference along the motion.

    Both frames are divided by their local root mean square, that showers that grow do not seem to move; where they do
    not resemble each other nothing is changed.
    """
    for _ in range(ROUNDS):
        back, ahead = (np.nan_to_num(_pulled(field, displacement, share)) for field, share in ((a, -0.5), (b, 0.5)))
        energies = [gaussian_filter(p, WINDOW) + FLAT / 10 for p in (back**2, ahead**2)]
        alike = gaussian_filter(back * ahead, WINDOW) / np.sqrt(energies[0] * energies[1])
        back, ahead = (f / np.sqrt(e) for f, e in zip((back, ahead), energies, strict=True))
        slope_y, slope_x = np.gradient((back + ahead) / 2)
        late = back - ahead
        products = slope_y**2, slope_x**2, slope_y * slope_x, slope_y * late, slope_x * late
        yy, xx, yx, ty, tx = (gaussian_filter(p, WINDOW) for p in products)
        yy, xx = yy + CALM, xx + CALM
        step = np.stack([xx * ty - yx * tx, yy * tx - yx * ty]) / (yy * xx - yx**2)
        change = np.clip(step, -1, 1) * np.clip(alike, 0, 1)
        displacement = displacement + np.stack([gaussian_filter(c, WINDOW / 2) for c in change])
    return displacement


def _stretched(field: Field, factor: int, shape: tuple[int, int], offset: float = 0.0) -> Field:
    """Return [2, h, w] on `shape`, `factor` pixels for each cell, bilinear; the first cell begins at `offset`."""
    parts = []
    for component in field:
        lines = component
        for axis, size in enumerate(shape):
            place = np.clip((np.arange(size) + 0.5 - offset) / factor - 0.5, 0, lines.shape[axis] - 1)
            low = np.minimum(place.astype(int), max(lines.shape[axis] - 2, 0))
            share = np.expand_dims((place - low).astype(np.float32), 1 - axis)
            high = np.minimum(low + 1, lines.shape[axis] - 1)
            lines = lines.take(low, axis) * (1 - share) + lines.take(high, axis) * share
        parts.append(lines)
    return np.stack(parts).astype(np.float32)
