"""Losses of the codecs: one function each, on fields [B, C, H, W] or latents.

Sums over the sphere take `area`, weights [H, W] that are proportional to the area of each cell
(`gen.grid.LatLonGrid.area_weights`); None gives every cell the same weight.
"""

from __future__ import annotations

__all__ = ["kl_divergence", "relative_l2", "spectral_loss"]

import torch
from torch import Tensor

NO_ERROR = 1e-30  # the root has no gradient at 0: below it the gradient is 0


def relative_l2(prediction: Tensor, target: Tensor, area: Tensor | None = None) -> Tensor:
    """Return the mean over samples and channels of the relative error |x - y| / |y|.

        |f|^2 = sum_ij area_ij f_ij^2

    Args:
        prediction: fields x [B, C, H, W].
        target: fields y [B, C, H, W]; none may be zero everywhere.
        area: weights [H, W], in any unit.

    Returns:
        A scalar in the wider type of float32 and the target's.

    Raises:
        ValueError: if the shapes differ.
    """
    error, truth = _wide(prediction, target)
    error = error - truth
    weight = _weights(area, truth)
    share = (error.square() * weight).sum((-2, -1)) / (truth.square() * weight).sum((-2, -1))
    return share.clamp(min=NO_ERROR).sqrt().mean()


def kl_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return the Kullback-Leibler divergence of N(mean, variance) from N(0, 1) in nats per latent number.

        (mean^2 + variance - 1 - ln variance) / 2      (Kingma and Welling 2014, Appendix B)

    Raises:
        ValueError: if the shapes differ.
    """
    mean, log_variance = _wide(mean, log_variance)
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()


def spectral_loss(prediction: Tensor, target: Tensor, area: Tensor | None = None, floor: float = 1e-6) -> Tensor:
    """Return the mean squared difference of the logarithms of the zonal power spectra.

        P_m = sum_i area_i |rfft_j(f)_im|^2,    loss = mean_{b,c,m>0} (ln P_m(x) - ln P_m(y))^2

    It sees amplitudes, not phases: a smoothed reconstruction costs, a shifted one does not.

    Args:
        prediction: fields x [B, C, H, W] on full circles of latitude.
        target: fields y [B, C, H, W].
        area: weights [H, W].
        floor: added to both spectra as a fraction of the target's mean power, so that empty wavenumbers do not count.

    Raises:
        ValueError: if the shapes differ.
    """
    power, truth = (_zonal_power(f, _weights(area, f)) for f in _wide(prediction, target))
    least = floor * truth.mean(-1, keepdim=True)
    return ((power + least).log() - (truth + least).log()).square().mean()


def _zonal_power(field: Tensor, weight: Tensor) -> Tensor:
    """Return the power [B, C, W/2] of the zonal wavenumbers from 1 on, summed over the rows."""
    spectrum = torch.view_as_real(torch.fft.rfft(field, dim=-1, norm="forward")[..., 1:])
    return (spectrum.square().sum(-1) * weight.mean(-1, keepdim=True)).sum(-2)


def _weights(area: Tensor | None, like: Tensor) -> Tensor:
    """Return weights [H, W] that sum to 1."""
    if area is None:
        area = torch.ones(like.shape[-2:])
    if area.shape != like.shape[-2:]:
        raise ValueError(f"area must have the shape of the grid, {tuple(like.shape[-2:])}; got {tuple(area.shape)}")
    area = area.to(like)
    return area / area.sum()


def _wide(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Return both in the wider of their types and float32; raises ValueError if the shapes differ."""
    if first.shape != second.shape:
        raise ValueError(f"both arguments must have the same shape; got {tuple(first.shape)} and {tuple(second.shape)}")
    wide = torch.promote_types(torch.promote_types(first.dtype, second.dtype), torch.float32)
    return first.to(wide), second.to(wide)
