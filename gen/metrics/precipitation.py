"""Scores of fine rain: tails, scales, texture, structure, and the marks that tiles leave.

Conventions, all stated because published codes differ: an event is a value >= its threshold; windows of the fractions
skill score are padded with zeros; spectra are binned in physical frequency, without the mean; SAL is the original one
with one threshold for each field. The CRPS is the fair one unless said otherwise (`gen.metrics.ensemble`).

    twCRPS   CRPS of max(x, t) against max(y, t)                        Gneiting and Ranjan 2011, Eq. 15
    FSS      1 - sum (F - O)^2 / (sum F^2 + sum O^2)                    Roberts and Lean 2008
    RALSD    sqrt(mean_k (10 log10 P_o(k) - 10 log10 P_f(k))^2) dB      Harris et al. 2022
    SAL      structure, amplitude, location                             Wernli et al. 2008
"""

from __future__ import annotations

__all__ = [
    "SAL",
    "fraction_sums",
    "fractions_skill_score",
    "log_spectral_distance",
    "pooled_crps",
    "probability_fraction_sums",
    "quantile_error",
    "radial_spectrum",
    "reliability_index",
    "sal",
    "seam_index",
    "threshold_weighted_crps",
    "wet_frequency",
    "wet_rank_histogram",
]

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from gen.metrics.ensemble import crps, rank_histogram

WET = 0.1  # mm/h
SAL_QUANTILE, SAL_DIVISOR = 0.95, 15.0


def threshold_weighted_crps(ensemble: Tensor, truth: Tensor, threshold: float, *, fair: bool = True) -> Tensor:
    """Compute the CRPS that looks at values above a threshold only.

    Args:
        ensemble: [M, ...].
        truth: [...].
        threshold: t, in the units of the field; very low ones give the CRPS itself.
        fair: use the estimator that is unbiased in M.

    Returns:
        [...] in the units of the field.
    """
    return crps(ensemble.clamp(min=threshold), truth.clamp(min=threshold), fair=fair)


def pooled_crps(
    ensemble: Tensor, truth: Tensor, size: int, kind: Literal["mean", "max"] = "mean", *, fair: bool = True
) -> Tensor:
    """Compute the CRPS of means or maxima over blocks, which scores amounts or peaks whatever their exact place.

    Args:
        ensemble: [M, ..., H, W].
        truth: [..., H, W].
        size: side of the blocks in pixels; incomplete ones at the far edges are left out.
        kind: "mean" or "max".
        fair: use the estimator that is unbiased in M.

    Returns:
        [..., H // size, W // size].

    Raises:
        ValueError: for an unknown kind or blocks larger than the field.
    """
    if kind not in ("mean", "max"):
        raise ValueError(f"kind must be mean or max; got {kind!r}")
    if not 1 <= size <= min(truth.shape[-2:]):
        raise ValueError(f"blocks of {size} do not fit into {truth.shape[-2]}x{truth.shape[-1]} pixels")
    return crps(_pool(ensemble, size, kind), _pool(truth, size, kind), fair=fair)


def wet_rank_histogram(ensemble: Tensor, truth: Tensor, weights: Tensor, threshold: float = WET) -> Tensor:
    """Count ranks (`gen.metrics.ensemble.rank_histogram`) where the truth or any member is wet, so that ties are few.

    Args:
        ensemble: [M, ..., H, W].
        truth: [..., H, W]; NaN cells are left out.
        weights: [H, W] cell areas.
        threshold: least wet value.

    Returns:
        [..., M + 1] fractions; NaN where all is dry.
    """
    wet = (truth >= threshold) | (ensemble >= threshold).any(dim=0)
    return rank_histogram(ensemble, torch.where(wet, truth, torch.nan), weights)


def reliability_index(histogram: Tensor) -> Tensor:
    """Return sum_k |f_k - 1 / (M + 1)| of rank histograms [..., M + 1]: 0 when flat, towards 2 when all in one rank."""
    return (histogram - 1 / histogram.shape[-1]).abs().sum(dim=-1)


def fraction_sums(forecast: Tensor, truth: Tensor, threshold: float, window: int) -> tuple[Tensor, Tensor]:
    """Sum what the fractions skill score is made of; add over fields before the division.

    Args:
        forecast: [..., H, W].
        truth: [..., H, W], broadcast to the forecast; NaN cells are no events and left out of the sums.
        threshold: an event is a value >= threshold.
        window: odd side of the neighbourhood in pixels; outside the field there are no events.

    Returns:
        sum (F - O)^2 and sum F^2 + O^2 [...], float64.

    Raises:
        ValueError: when the window is even.
    """
    return _fraction_sums((forecast >= threshold).double(), truth, threshold, window)


def probability_fraction_sums(ensemble: Tensor, truth: Tensor, threshold: float, window: int) -> tuple[Tensor, Tensor]:
    """Sum as `fraction_sums` with the fraction of members [M, ..., H, W] that have the event as the forecast."""
    return _fraction_sums((ensemble >= threshold).double().mean(dim=0), truth, threshold, window)


def fractions_skill_score(difference: Tensor, reference: Tensor) -> Tensor:
    """Return 1 - difference / reference from the sums over all fields; NaN when neither has an event."""
    return 1 - difference / reference


def radial_spectrum(field: Tensor, spacing: tuple[float, float], *, hann: bool = False) -> tuple[Tensor, Tensor]:
    """Average the power |FFT|^2 / (H W) over rings of physical frequency.

    Args:
        field: [..., H, W], finite.
        spacing: distance of rows and of columns, such as km.
        hann: taper towards the edges, for fields that are not periodic.

    Returns:
        frequency [K] in cycles per unit of spacing, multiples of the larger of the two lowest ones up to the smaller
        Nyquist frequency, without the mean, and power [..., K] float64.
    """
    height, width = field.shape[-2:]
    fields = field.double()
    if hann:
        taper = torch.outer(*(torch.hann_window(n, periodic=True, dtype=torch.float64) for n in (height, width)))
        fields = (fields - fields.mean(dim=(-2, -1), keepdim=True)) * taper / taper.square().mean().sqrt()
    power = torch.fft.fft2(fields).abs().square() / (height * width)
    axes = (torch.fft.fftfreq(n, d=d, dtype=torch.float64) for n, d in zip((height, width), spacing, strict=True))
    frequency = torch.hypot(*torch.meshgrid(*axes, indexing="ij"))
    step = max(1 / (height * spacing[0]), 1 / (width * spacing[1]))
    ring = torch.round(frequency / step).long().flatten()
    last = int(np.floor(min(1 / (2 * spacing[0]), 1 / (2 * spacing[1])) / step + 1e-9))
    total = torch.zeros((*field.shape[:-2], int(ring.max()) + 1), dtype=torch.float64)
    total.index_add_(-1, ring, power.flatten(-2).cpu())
    mean = total / torch.bincount(ring)
    return step * torch.arange(1, last + 1, dtype=torch.float64), mean[..., 1 : last + 1]


def log_spectral_distance(
    forecast: Tensor, truth: Tensor, spacing: tuple[float, float], *, hann: bool = False
) -> Tensor:
    """Return the distance of radial spectra in decibels, by field; average over members and times afterwards.

    Args:
        forecast: [..., H, W].
        truth: [..., H, W], broadcast to the forecast.
        spacing: distance of rows and of columns.
        hann: taper towards the edges.

    Returns:
        [...] dB; NaN where one of the two has no variance.
    """
    ours, theirs = (radial_spectrum(x, spacing, hann=hann)[1] for x in (forecast, truth))
    empty = (ours <= 0).all(dim=-1) | (theirs <= 0).all(dim=-1)
    both = (ours > 0) & (theirs > 0)
    ratio = torch.where(both, 10 * torch.log10(torch.where(both, theirs / ours, 1.0)), 0.0)
    distance = (ratio.square().sum(dim=-1) / both.sum(dim=-1)).sqrt()
    return torch.where(empty, torch.nan, distance)


class SAL(NamedTuple):
    """Structure in [-2, 2] (positive: too large or flat objects), amplitude in [-2, 2], location in [0, 2]."""

    structure: float
    amplitude: float
    location: float


def sal(forecast: Tensor, truth: Tensor) -> SAL:
    """Compare the objects of two fields [H, W], those above a fifteenth of the field's own 95th wet percentile.

    Objects touch at sides or corners. With object masses R_n, maxima and centres, and d the diagonal of the field:
    V = sum R_n^2 / max_n / sum R_n and S = 2 (V_f - V_o) / (V_f + V_o); A likewise of the domain means; L = L1 + L2,
    the distance of the centres of mass and twice the difference of the mean scatter of objects about them, over d.

    Returns:
        S and L are NaN when a field is dry, A only when both are.
    """
    fields = [np.asarray(x, dtype=np.float64) for x in (forecast, truth)]
    if any(x.ndim != 2 or not np.isfinite(x).all() for x in fields):
        raise ValueError("SAL needs two maps without missing values")
    diagonal = float(np.hypot(*fields[0].shape))
    mean = [x.mean() for x in fields]
    (v_f, centre_f, r_f), (v_o, centre_o, r_o) = (_objects(x) for x in fields)
    location = float(np.hypot(*(centre_f - centre_o))) / diagonal + 2 * abs(r_f - r_o) / diagonal
    return SAL(_relative(v_f, v_o), _relative(mean[0], mean[1]), location)


def quantile_error(forecast: Tensor, truth: Tensor, probabilities: Sequence[float]) -> Tensor:
    """Return q_f / q_o - 1 of pooled values; NaN where the quantile of the truth is zero.

    Args:
        forecast: any shape; NaN are left out.
        truth: any shape; NaN are left out.
        probabilities: levels in [0, 1], such as 0.99, 0.999, 0.9999.
    """
    levels = np.asarray(probabilities, np.float64)
    q = [np.nanquantile(np.asarray(x.detach().cpu(), np.float64), levels) for x in (forecast, truth)]
    with np.errstate(divide="ignore", invalid="ignore"):
        return torch.from_numpy(np.where(q[1] > 0, q[0] / q[1] - 1, np.nan))


def wet_frequency(values: Tensor, weights: Tensor, threshold: float = WET) -> Tensor:
    """Return the fraction of area [...] with at least `threshold`, of values [..., H, W] with NaN left out."""
    known = ~torch.isnan(values)
    area = (weights.double() * known).sum(dim=(-2, -1))
    return (weights.double() * (values >= threshold)).sum(dim=(-2, -1)) / area


def seam_index(field: Tensor, row_seams: Sequence[int] = (), column_seams: Sequence[int] = ()) -> Tensor:
    """Divide the mean step across the edges of tiles by that elsewhere: one where no seam shows.

    Args:
        field: [..., H, W], finite.
        row_seams: numbers of the rows that begin a tile.
        column_seams: numbers of the columns that begin a tile.

    Returns:
        [...]; NaN for a constant field.

    Raises:
        ValueError: when there is no seam or one outside the field.
    """
    height, width = field.shape[-2:]
    if not (row_seams or column_seams):
        raise ValueError("name at least one row or column at which a tile begins")
    if any(not 0 < r < height for r in row_seams) or any(not 0 < c < width for c in column_seams):
        raise ValueError(f"seams must lie inside {height}x{width} pixels; got rows {row_seams}, columns {column_seams}")
    across, inside = list[Tensor](), list[Tensor]()
    for steps, seams in ((field.double().diff(dim=-2), row_seams), (field.double().diff(dim=-1).mT, column_seams)):
        at = torch.zeros(steps.shape[-2], dtype=torch.bool)
        at[[s - 1 for s in seams]] = True
        across.append(steps[..., at, :].abs().flatten(-2))
        inside.append(steps[..., ~at, :].abs().flatten(-2))
    if not (row_seams and column_seams):  # compare steps of one direction only
        inside = inside[:1] if row_seams else inside[1:]
    return torch.cat(across, dim=-1).mean(dim=-1) / torch.cat(inside, dim=-1).mean(dim=-1)


def _pool(values: Tensor, size: int, kind: str) -> Tensor:
    height, width = (n - n % size for n in values.shape[-2:])
    blocks = values[..., :height, :width].unflatten(-1, (-1, size)).unflatten(-3, (-1, size))
    return blocks.mean(dim=(-3, -1)) if kind == "mean" else blocks.amax(dim=(-3, -1))


def _fraction_sums(chance: Tensor, truth: Tensor, threshold: float, window: int) -> tuple[Tensor, Tensor]:
    if window < 1 or window % 2 == 0:
        raise ValueError(f"window must be an odd number of pixels; got {window}")
    known = ~torch.isnan(truth)
    forecast, observed = (_window_mean(x * known, window) for x in (chance, (truth >= threshold).double()))
    parts = ((forecast - observed).square(), forecast.square() + observed.square())
    return (parts[0] * known).sum(dim=(-2, -1)), (parts[1] * known).sum(dim=(-2, -1))


def _window_mean(events: Tensor, window: int) -> Tensor:
    flat = events.reshape(-1, 1, *events.shape[-2:])
    for size in ((window, 1), (1, window)):  # one direction after the other: 2 n instead of n^2 additions
        flat = functional.avg_pool2d(flat, size, stride=1, padding=(size[0] // 2, size[1] // 2))
    return flat.reshape(events.shape)


def _objects(field: np.ndarray) -> tuple[float, np.ndarray, float]:
    """Return V, the centre of mass and the mean distance of objects from it, NaN for a dry field."""
    from scipy.ndimage import label

    wet = field[field > 0]
    if not wet.size:
        return np.nan, np.full(2, np.nan), np.nan
    labels, count = label(field >= np.quantile(wet, SAL_QUANTILE) / SAL_DIVISOR, structure=np.ones((3, 3)))
    place = np.indices(field.shape)
    number = np.arange(1, count + 1)
    mass = np.bincount(labels.ravel(), field.ravel(), count + 1)[1:]
    peak = np.zeros(count + 1)
    np.maximum.at(peak, labels.ravel(), field.ravel())
    centres = [np.bincount(labels.ravel(), (field * p).ravel(), count + 1)[number] / mass for p in place]
    centre = np.array([(field * p).sum() / field.sum() for p in place])
    scatter = np.hypot(centres[0] - centre[0], centres[1] - centre[1])
    volume = (mass**2 / peak[1:]).sum() / mass.sum()
    return float(volume), centre, float((mass * scatter).sum() / mass.sum())


def _relative(forecast: float, truth: float) -> float:
    """Return 2 (f - o) / (f + o), NaN when the sum is no positive number."""
    total = forecast + truth
    return float(2 * (forecast - truth) / total) if total > 0 else float("nan")
