"""What is kept of one crop: means and counts that add up, so that scores can be formed later, over any crops.

A record is a mapping of names to numbers or lists; every score of `downscaling.score_summary` is a function of sums of
records. Events are rates >= their threshold. Rates are counted in logarithmic bins 1.5 % wide, from which quantiles are
read to about half a percent whatever the number of crops.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["BIN_EDGES", "BRIER", "FSS_SCALES", "FSS_THRESHOLDS", "POOLS", "TAILS", "score_crop", "truth_record"]

import numpy as np
import torch
from torch import Tensor

from gen.metrics.base import area_mean
from gen.metrics.ensemble import brier_score, crps, ensemble_statistics
from gen.metrics.precipitation import (
    WET,
    fraction_sums,
    log_spectral_distance,
    pooled_crps,
    probability_fraction_sums,
    radial_spectrum,
    sal,
    seam_index,
    threshold_weighted_crps,
    wet_frequency,
    wet_rank_histogram,
)

BRIER = (0.1, 1.0, 5.0, 10.0)  # mm/h
TAILS = (1.0, 5.0, 10.0)  # mm/h
POOLS = (4, 16)  # pixels
FSS_THRESHOLDS = (0.1, 1.0, 5.0, 10.0, 20.0)  # mm/h
FSS_SCALES = (1, 5, 11, 25)  # pixels
BIN_EDGES = np.geomspace(0.01, 2000.0, 821)  # mm/h; below the first it is dry
DIGITS = 9


def score_crop(
    ensemble: Tensor,
    truth: Tensor,
    weights: Tensor,
    spacing: tuple[float, float],
    seams: tuple[Sequence[int], Sequence[int]] = ((), ()),
) -> dict[str, Any]:
    """Return the record of an ensemble against the truth.

    Args:
        ensemble: [M, H, W] mm/h, finite where the truth is.
        truth: [H, W] mm/h, NaN where missing; these pixels count as dry in spectra and objects, else not at all.
        weights: [H, W] areas.
        spacing: km between rows and columns.
        seams: rows and columns at which something begins that must not show.
    """
    truth = truth.contiguous()
    known = ~torch.isnan(truth)
    ensemble = torch.where(known, ensemble, torch.nan)
    x, y = (torch.nan_to_num(t) for t in (ensemble, truth))
    record = _points(ensemble, truth, weights) | _events(ensemble, truth, weights) | _objects(x, y)
    record["spectrum"] = _spectrum(x, spacing).mean(axis=0)
    distance = log_spectral_distance(x, y, spacing, hann=True)
    record["spectral_distance"] = distance[torch.isfinite(distance)].mean()
    if len(x) > 1:  # what a truth drawn as the members are would have
        between = torch.stack([log_spectral_distance(x[k], x[k - 1], spacing, hann=True) for k in range(len(x))])
        record["spectral_distance_members"] = between[torch.isfinite(between)].mean()
    record["wet"] = wet_frequency(ensemble, weights).mean()
    record["histogram"] = _histogram(ensemble)
    if any(seams):
        index = seam_index(x, *seams)
        record["seam"] = index[torch.isfinite(index)].mean()
    return {name: plain(value) for name, value in record.items()}


def truth_record(
    truth: Tensor, weights: Tensor, spacing: tuple[float, float], seams: tuple[Sequence[int], Sequence[int]] = ((), ())
) -> dict[str, Any]:
    """Return what is kept of the truth itself [H, W]."""
    filled = torch.nan_to_num(truth)
    record = {
        "mean": area_mean(truth, weights),
        "wet": wet_frequency(truth, weights),
        "spectrum": _spectrum(filled, spacing),
        "histogram": _histogram(truth),
    }
    if any(seams):
        record["seam"] = seam_index(filled, *seams)
    return {name: plain(value) for name, value in record.items()}


def plain(value: Any) -> Any:
    """Return numbers and nested lists with nine digits; what is not finite is None."""
    if isinstance(value, Tensor | np.ndarray):
        value = value.tolist()
    if isinstance(value, list):
        return [plain(v) for v in value]
    if isinstance(value, float | int):
        return float(f"{value:.{DIGITS}g}") if np.isfinite(value) else None
    raise TypeError(f"a record holds numbers and lists; got {type(value).__name__}")


def _points(ensemble: Tensor, truth: Tensor, weights: Tensor) -> dict[str, Any]:
    """Return what is scored pixel by pixel or block by block."""
    found = ensemble_statistics(ensemble, truth, weights)
    record: dict[str, Any] = {name: found[name] for name in ("crps", "squared_error", "error", "variance")}
    record["rank"] = found["rank_histogram"]
    record["crps_biased"] = area_mean(crps(ensemble, truth, fair=False), weights)
    record["mae"] = area_mean((ensemble.mean(dim=0) - truth).abs(), weights)
    record["mean"] = area_mean(ensemble, weights).mean()
    wet = ((truth >= WET) | (ensemble >= WET).any(dim=0)) & ~torch.isnan(truth)
    share = area_mean(wet.double(), weights)
    record["wet_any"], record["wet_rank"] = (
        share,
        torch.nan_to_num(wet_rank_histogram(ensemble, truth, weights)) * share,
    )
    for t in TAILS:
        record[f"twcrps_{t:g}"] = area_mean(threshold_weighted_crps(ensemble, truth, t), weights)
    for size in POOLS:
        for kind in ("mean", "max"):
            if size <= min(truth.shape):
                pooled = pooled_crps(ensemble, truth, size, kind)
                record[f"crps_{kind}_{size}"] = torch.nanmean(pooled)
    return record


def _events(ensemble: Tensor, truth: Tensor, weights: Tensor) -> dict[str, Any]:
    """Return what is scored by thresholds; sums of fractions [thresholds, scales, 2]."""
    record: dict[str, Any] = {}
    below = [float(np.nextafter(np.float32(t), np.float32(0))) for t in BRIER]  # so that > means >=
    for name, fair in (("brier", False), ("brier_fair", True)):
        scores = [area_mean(brier_score(ensemble, truth, t, debiased=fair), weights) for t in below]
        record[name] = torch.stack(scores)
    members, chance = [], []
    for t in FSS_THRESHOLDS:
        for n in FSS_SCALES:
            members.append(torch.stack([s.mean() for s in fraction_sums(ensemble, truth, t, n)]))
            chance.append(torch.stack(probability_fraction_sums(ensemble, truth, t, n)))
    shape = (len(FSS_THRESHOLDS), len(FSS_SCALES), 2)
    record["fss"], record["fss_chance"] = torch.stack(members).reshape(shape), torch.stack(chance).reshape(shape)
    return record


def _objects(x: Tensor, y: Tensor) -> dict[str, Any]:
    """Return the means over members of |S|, S, |A|, A and L, as far as they are defined."""
    parts = np.array([sal(member, y) for member in x])
    columns = {"sal_s": parts[:, 0], "sal_a": parts[:, 1], "sal_l": parts[:, 2]}
    columns |= {"sal_s_abs": np.abs(parts[:, 0]), "sal_a_abs": np.abs(parts[:, 1])}
    return {n: float(np.mean(c[np.isfinite(c)])) if np.isfinite(c).any() else np.nan for n, c in columns.items()}


def _spectrum(fields: Tensor, spacing: tuple[float, float]) -> np.ndarray:
    """Return power [..., K] at K = n / 2 even steps up to the smaller Nyquist frequency, n the shorter side.

    Cells of a latitude-longitude grid narrow towards the pole, and rings with them; these steps can be averaged.
    """
    frequency, power = (t.numpy() for t in radial_spectrum(fields, spacing, hann=True))
    count = min(fields.shape[-2:]) // 2
    wanted = np.arange(1, count + 1) / count / (2 * max(spacing))
    rows = [np.interp(wanted, frequency, row) for row in power.reshape(-1, power.shape[-1])]
    return np.asarray(rows).reshape(*power.shape[:-1], count)


def _histogram(values: Tensor) -> list[list[int]]:
    """Return [number of the bin, count] of bins that are not empty; bin 0 is dry, members count as one sample each."""
    rates = values[~torch.isnan(values)].double().numpy()
    count = np.bincount(np.searchsorted(BIN_EDGES, rates, side="right"), minlength=BIN_EDGES.size + 1)
    return [[int(k), int(count[k])] for k in np.flatnonzero(count)]
