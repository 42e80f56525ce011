"""Scores of single fields: squared and absolute error, bias, anomaly correlation.

All functions return area means per leading index; roots and means over start dates are taken by whoever summarises.
"""

from __future__ import annotations

__all__ = ["anomaly_correlation", "deterministic_statistics"]

from torch import Tensor

from gen.metrics.base import area_mean


def deterministic_statistics(forecast: Tensor, truth: Tensor, weights: Tensor) -> dict[str, Tensor]:
    """Compute the statistics of one deterministic forecast.

    The CRPS of a point forecast is its absolute error (Gneiting and Raftery 2007, section 4.2), so that "crps" can be
    compared with that of an ensemble.

    Args:
        forecast: [..., H, W].
        truth: [..., H, W]; NaN cells are left out.
        weights: [H, W] cell areas.

    Returns:
        "crps", "squared_error" and "error", each [...] float64.
    """
    error = (forecast - truth).double()
    return {
        "crps": area_mean(error.abs(), weights),
        "squared_error": area_mean(error.square(), weights),
        "error": area_mean(error, weights),
    }


def anomaly_correlation(forecast: Tensor, truth: Tensor, climatology: Tensor, weights: Tensor) -> Tensor:
    """Correlate the anomalies of forecast and truth over the sphere, without removing their area means.

    `<f' o'> / sqrt(<f'^2> <o'^2>)` with `f' = f - c`, `o' = o - c` (WMO-No. 485, uncentred form).

    Args:
        forecast: [..., H, W].
        truth: [..., H, W].
        climatology: [..., H, W].
        weights: [H, W] cell areas.

    Returns:
        [...] in [-1, 1].
    """
    f, o = (forecast - climatology).double(), (truth - climatology).double()
    covariance = area_mean(f * o, weights)
    return covariance / (area_mean(f.square(), weights) * area_mean(o.square(), weights)).sqrt()
