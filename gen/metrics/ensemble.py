"""Scores of ensembles: fair CRPS, spread against skill, rank histogram, Brier score.

With members x_1..x_M, truth y, <.> the area mean and then the mean over start dates (Fortin et al. 2014; Ferro 2014):

    fair CRPS   <1/M sum |x_i - y|> - <1/(2 M (M-1)) sum_ij |x_i - x_j|>
    spread^2    <s^2>, s^2 the ensemble variance with M - 1
    RMSE^2      <(mean(x) - y)^2>;  unbiased: <(mean(x) - y)^2 - s^2/M>
    SSR         classic: sqrt((M+1)/M) spread / RMSE;  unbiased: spread / unbiased RMSE;  both 1 when calibrated

Fair scores estimate what an infinite ensemble would get, so that ensembles of different size can be compared.
"""

from __future__ import annotations

__all__ = [
    "brier_score",
    "crps",
    "ensemble_statistics",
    "quantile",
    "rank_chi_square",
    "rank_histogram",
    "spread_skill_ratio",
    "unbiased_mse",
]

from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from gen.metrics.base import area_mean

ELEMENTS_PER_BLOCK = 1 << 21

Array = TypeVar("Array", Tensor, np.ndarray)


def crps(ensemble: Tensor, truth: Tensor, *, fair: bool = True) -> Tensor:
    """Compute the continuous ranked probability score at every point.

    The mean pair distance comes from order statistics, `sum_{i<j} |x_i - x_j| = sum_i (2i - M - 1) x_(i)`, which takes
    O(M log M); points are worked through in blocks, so that the extra memory does not grow with the field. Differences
    to the truth are formed first: a constant as large as that of geopotential costs no digits.

    Args:
        ensemble: [M, ...] members.
        truth: [...].
        fair: use the estimator that is unbiased in M (Ferro 2014); otherwise that of the empirical distribution.

    Returns:
        [...] in the units of the field; for M = 1 the absolute error.
    """
    members = ensemble.shape[0]
    out = torch.empty_like(truth, dtype=torch.promote_types(ensemble.dtype, truth.dtype))
    flat, target, points = ensemble.reshape(members, -1), truth.reshape(-1), out.view(-1)
    rank = 2.0 * torch.arange(1, members + 1, dtype=torch.float64, device=truth.device) - members - 1
    pairs = members * (members - 1 if fair and members > 1 else members)
    size = max(1, ELEMENTS_PER_BLOCK // members)
    for begin in range(0, points.numel(), size):
        block = slice(begin, begin + size)
        error = (flat[:, block].double() - target[block].double()).T.contiguous()
        skill = error.abs().mean(dim=1)
        points[block] = (skill - _sorted(error) @ rank / pairs).to(out.dtype)
    return out


def ensemble_statistics(ensemble: Tensor, truth: Tensor, weights: Tensor) -> dict[str, Tensor]:
    """Compute the area means that an ensemble's scores are made of.

    Args:
        ensemble: [M, ..., H, W].
        truth: [..., H, W]; NaN cells are left out.
        weights: [H, W] cell areas.

    Returns:
        "crps" (fair), "squared_error" and "error" of the mean, "variance" (NaN for M = 1), each [...] float64, and
        "rank_histogram" [..., M + 1].
    """
    y = truth.double()
    error = ensemble.double() - y
    mean = error.mean(dim=0)
    variance = (error - mean).square().sum(dim=0) / (ensemble.shape[0] - 1) if ensemble.shape[0] > 1 else mean * np.nan
    return {
        "crps": area_mean(crps(error, torch.zeros_like(y)), weights),
        "squared_error": area_mean(mean.square(), weights),
        "error": area_mean(mean, weights),
        "variance": area_mean(variance, weights),
        "rank_histogram": rank_histogram(ensemble, truth, weights),
    }


def unbiased_mse(squared_error: Array, variance: Array, members: int) -> Array:
    """Remove from the squared error of the mean what the finite ensemble adds to it, `s^2/M`."""
    return squared_error - variance / members


def spread_skill_ratio(squared_error: Array, variance: Array, members: int, *, unbiased: bool = False) -> Array:
    """Divide spread by skill; one means calibrated.

    Args:
        squared_error: mean over cells and start dates of the squared error of the ensemble mean.
        variance: mean over the same of the ensemble variance (M - 1).
        members: M.
        unbiased: `sqrt(s^2 / (mse - s^2/M))` instead of the classic `sqrt((M+1)/M s^2 / mse)` (Fortin et al. 2014,
            Eq. 15). Both are one for a calibrated ensemble; away from one the classic form is drawn towards it.

    Returns:
        The ratio; NaN where the unbiased error is not positive.
    """
    if unbiased:
        ratio = variance / unbiased_mse(squared_error, variance, members)
    else:
        ratio = (members + 1) / members * variance / squared_error
    return ratio**0.5


def rank_histogram(ensemble: Tensor, truth: Tensor, weights: Tensor) -> Tensor:
    """Count how often the truth has each rank among the members, as fractions of the area.

    A truth that equals k members gives an equal share of its cell to each of the k + 1 ranks it could have, which is
    the expectation of splitting ties at random and needs no random numbers.

    Args:
        ensemble: [M, ..., H, W].
        truth: [..., H, W]; NaN cells are left out.
        weights: [H, W] cell areas.

    Returns:
        [..., M + 1] float64, each row summing to one (NaN where nothing was counted).
    """
    lead, bins = truth.shape[:-2], ensemble.shape[0] + 1
    below, equal = (ensemble < truth).sum(dim=0), (ensemble == truth).sum(dim=0)
    share = weights.double().expand(truth.shape) / (equal + 1) * ~torch.isnan(truth)
    edges = torch.zeros((*lead, bins + 1), dtype=torch.float64, device=truth.device)
    edges.scatter_add_(-1, below.reshape(*lead, -1), share.reshape(*lead, -1))
    edges.scatter_add_(-1, (below + equal + 1).reshape(*lead, -1), -share.reshape(*lead, -1))
    counts = edges.cumsum(dim=-1)[..., :-1]
    return counts / counts.sum(dim=-1, keepdim=True)


def quantile(ensemble: Tensor, probabilities: Tensor) -> Tensor:
    """Return linearly interpolated quantiles [E, ...] of members [M, ...], of any size (torch stops at 16 million)."""
    place = probabilities.to(ensemble) * (ensemble.shape[0] - 1)
    below = place.floor().long().clamp(max=max(ensemble.shape[0] - 2, 0))
    above = (below + 1).clamp(max=ensemble.shape[0] - 1)
    ordered = _sorted(ensemble.flatten(1).T.contiguous())
    return torch.lerp(ordered[:, below], ordered[:, above], place - below).T.reshape(-1, *ensemble.shape[1:])


def rank_chi_square(counts: np.ndarray) -> tuple[float, float]:
    """Test the flatness of a histogram of independent ranks.

    Args:
        counts: [M + 1] numbers of independent cases (not of neighbouring cells, which are correlated).

    Returns:
        Pearson's chi squared with M degrees of freedom and its p-value.
    """
    from scipy.stats import chi2

    expected = counts.sum() / counts.size
    statistic = float(((counts - expected) ** 2).sum() / expected)
    return statistic, float(chi2.sf(statistic, counts.size - 1))


def brier_score(ensemble: Tensor, truth: Tensor, threshold: Tensor | float, *, debiased: bool = True) -> Tensor:
    """Score the probability of exceeding a threshold at every point.

    `(p - 1[y > t])^2` with p the fraction of members above t, less `p (1 - p)/(M - 1)`, the part that comes from the
    finite ensemble (Ferro 2014), when debiased.

    Args:
        ensemble: [M, ...].
        truth: [...].
        threshold: number or anything that broadcasts to the truth.
        debiased: estimate the score of an infinite ensemble (needs M > 1).

    Returns:
        [...] float64; NaN where the truth or the threshold is.
    """
    probability = (ensemble > threshold).double().mean(dim=0)
    score = (probability - (truth > threshold).double()).square()
    if debiased and ensemble.shape[0] > 1:
        score = score - probability * (1 - probability) / (ensemble.shape[0] - 1)
    return torch.where(torch.isnan(truth - threshold), torch.nan, score)


def _sorted(values: Tensor) -> Tensor:
    """Sort along the last dimension; numpy's vectorised sort takes a tenth of torch's time on a CPU."""
    if values.device.type == "cpu" and not values.requires_grad:
        return torch.from_numpy(np.sort(values.numpy(), axis=-1))
    return values.sort(dim=-1).values
