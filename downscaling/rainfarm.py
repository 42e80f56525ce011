"""RainFARM: stochastic downscaling of rain by a random field with the spectrum of the coarse one, the baseline to beat.

A Gaussian field g with power P(k) ~ k^-alpha on the fine grid, alpha the log-log slope of the coarse spectrum, is made
positive by r = exp(g / std g) and scaled so that every coarse cell keeps its amount (Rebora et al. 2006,
doi 10.1175/JHM517.1). Spectral fusion (D'Onofrio et al. 2014, doi 10.1175/JHM-D-13-096.1) keeps the large scales: the
coarse field is made Gaussian by its ranks, its Fourier components up to the coarse Nyquist wavenumber are taken as they
are, and noise continues them with the slope alpha and the power that the coarse spectrum has there.

Wavenumbers are in cycles per coarse cell along both axes, so that any rectangle is fine. For factors that are not whole
the fine grid is the nearest one and the amounts are kept by the Kullback-Leibler projection (`downscaling.conserve`).
Known weakness, by construction: every pixel of a wet coarse cell is wet.
"""

from __future__ import annotations

__all__ = ["downscale", "gaussian_scores", "spectral_slope"]

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm, rankdata

from downscaling.conserve import conserve
from downscaling.overlap import Overlap
from gen.seeding import Address, normal

Array = NDArray[np.float64]

NYQUIST = 0.5  # cycles per coarse cell
MARGIN = 1 / 6  # of the logarithmic range of wavenumbers, left out at both ends of the fit
RING = 0.8  # of the Nyquist wavenumber: from here on the coarse power is what the noise continues
STREAM = "rainfarm"


def downscale(
    coarse: ArrayLike,
    factor: float,
    *,
    members: int,
    seed: int,
    time: int = 0,
    fusion: bool = True,
    slope: float | None = None,
    overlap: Overlap | None = None,
    cells: tuple[NDArray[np.int64], NDArray[np.int64]] | None = None,
    first_member: int = 0,
) -> NDArray[np.float32]:
    """Draw fine fields that keep every coarse amount.

    Args:
        coarse: [Hc, Wc] rain >= 0; NaN where missing, which stays missing.
        factor: width of coarse in fine cells, at least 1; the fine grid has round(factor * Hc) x round(factor * Wc).
        members: number of fields.
        seed: seed; a member's noise depends on seed, member and time alone.
        time: valid time in hours since 1970, part of the noise's address.
        fusion: keep the large scales of the coarse field (D'Onofrio et al. 2014).
        slope: alpha; fitted to the coarse spectrum by default.
        overlap: the cells, where areas differ or the grids do not share a corner; plain squares by default.
        cells: numbers of the coarse rows and columns that hold the fine centres, where the grids do not share a corner.
        first_member: number of the first member.

    Returns:
        [members, Hf, Wf] float32.

    Raises:
        ValueError: for negative or infinite rain, a factor below one, a field of less than 2 x 2 cells.
    """
    c = np.asarray(coarse, np.float64)
    if c.ndim != 2 or min(c.shape) < 2 or np.isinf(c).any() or np.nanmin(c, initial=0.0) < 0:
        raise ValueError(f"coarse rain must be a field of at least 2x2 cells, finite and >= 0; got shape {c.shape}")
    if factor < 1:
        raise ValueError(f"factor must be at least 1; got {factor:g}")
    shape = (round(c.shape[0] * factor), round(c.shape[1] * factor))
    lap = _squares(c.shape, shape) if overlap is None else overlap
    known = lap.touched_by(np.isfinite(c)) & lap.valid
    filled = np.nan_to_num(c)
    place = _cells(c.shape, lap.fine_shape) if cells is None else cells
    nearest = filled[np.ix_(*place)]
    out = np.zeros((members, *lap.fine_shape), np.float32)
    if filled.any():
        base = gaussian_scores(filled) if fusion else filled
        alpha = spectral_slope(base) if slope is None else slope
        for k in range(members):
            address = Address(seed, first_member + k, time, STREAM)
            white = normal(lap.fine_shape, address).double().numpy()
            field = _fused(white, base, alpha, place) if fusion else _noise(white, c.shape, alpha)
            prior = nearest * np.exp(field / field.std())
            out[k] = conserve(prior, c, lap, "input").values
    out[:, ~known] = np.nan
    return out


def spectral_slope(field: Array) -> float:
    """Return alpha of P(k) ~ k^-alpha by a straight line through log P over log k, outer sixths of its range left out.

    Args:
        field: [H, W], finite; the least squares count every Fourier component once.

    Returns:
        The slope; 0 for a field without variance.
    """
    k = _wavenumber(field.shape, field.shape)
    power = np.abs(np.fft.fft2(field - field.mean())) ** 2
    use = (k > 0) & (power > np.finfo(float).eps * power.max(initial=0.0))
    if use.sum() < 2:
        return 0.0
    log_k, log_power = np.log(k[use]), np.log(power[use])
    low, high = log_k.min(), log_k.max()
    inner = (log_k >= low + MARGIN * (high - low)) & (log_k <= high - MARGIN * (high - low))
    if np.unique(log_k[inner]).size < 2:
        return 0.0
    return float(-np.polyfit(log_k[inner], log_power[inner], 1)[0])


def gaussian_scores(field: Array) -> Array:
    """Return the normal scores of a field's ranks, ties (dry cells) sharing the mean rank; zero mean, unit variance."""
    ranks = rankdata(field, method="average").reshape(field.shape)
    scores = norm.ppf((ranks - 0.5) / field.size)
    spread = scores.std()
    return np.asarray((scores - scores.mean()) / (spread if spread > 0 else 1.0))


def _noise(white: Array, coarse_shape: tuple[int, ...], alpha: float) -> Array:
    """Return white noise with the spectrum k^-alpha and no mean."""
    k = _wavenumber(white.shape, coarse_shape)
    with np.errstate(divide="ignore"):
        amplitude = np.where(k > 0, k ** (-alpha / 2), 0.0)
    return np.asarray(np.fft.ifft2(np.fft.fft2(white) * amplitude).real)


def _fused(white: Array, scores: Array, alpha: float, place: tuple[NDArray[np.int64], NDArray[np.int64]]) -> Array:
    """Return the field whose large scales are those of the coarse scores and whose small ones are noise."""
    k = _wavenumber(white.shape, scores.shape)
    large = np.fft.fft2(scores[np.ix_(*place)])
    noise = np.fft.fft2(_noise(white, scores.shape, alpha))
    keep = k < NYQUIST
    ring = (k >= RING * NYQUIST) & keep
    ratio = (np.abs(large[ring]) ** 2).mean() / (np.abs(noise[ring]) ** 2).mean()
    return np.asarray(np.fft.ifft2(np.where(keep, large, np.sqrt(ratio) * noise)).real)


def _wavenumber(shape: tuple[int, ...], coarse_shape: tuple[int, ...]) -> Array:
    """Return the radial wavenumber of every Fourier component, in cycles per coarse cell."""
    axes = (np.fft.fftfreq(n, d=m / n) for n, m in zip(shape, coarse_shape, strict=True))
    return np.asarray(np.hypot(*np.meshgrid(*axes, indexing="ij")))


def _cells(coarse: tuple[int, ...], fine: tuple[int, int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the numbers of the coarse rows and columns that hold the fine centres of grids that share their edges."""
    rows, columns = (((np.arange(n) + 0.5) * m / n).astype(np.int64) for n, m in zip(fine, coarse, strict=True))
    return rows, columns


def _squares(coarse: tuple[int, ...], fine: tuple[int, int]) -> Overlap:
    """Return the overlap of two grids that share their outer edges."""
    edges = [np.linspace(0.0, n, m + 1) for n, m in zip(fine, coarse, strict=True)]
    cells = [np.arange(n + 1, dtype=np.float64) for n in fine]
    return Overlap.from_edges((edges[0], edges[1]), (cells[0], cells[1]))
