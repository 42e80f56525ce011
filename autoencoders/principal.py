r"""A deep-compression autoencoder that corrects a linear one.

    z = A P(x) + E(x),    x' = P^-1(B z) + u D(z)

P moves f x f cells into channels; A and B start as the leading principal components of such patches (in units u, the
6 h persistence error per channel, so that the components matter as a forecast needs them), scaled to unit variance; E
and D are the encoder and decoder of `autoencoders.dcae.DCAE` with their last convolution at zero. Training therefore
starts at the best linear patch codec instead of at noise: atmospheric fields are reconstructed to a few per cent of
their variance, which a network alone reaches only after long training.
"""

from __future__ import annotations

__all__ = ["PrincipalDCAE"]

from collections.abc import Callable, Sequence
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional as F

from autoencoders.base import LatentSpec
from autoencoders.dcae import DCAE


class PrincipalDCAE(ModelMixin, ConfigMixin):
    """Encode and decode by trainable principal components of patches, corrected by a `DCAE`.

    Args:
        network: arguments of `autoencoders.dcae.DCAE`.
        unit: scale u of the decoder's correction per data channel [C]; empty means 1.
    """

    scale: Tensor

    @register_to_config
    def __init__(self, network: dict[str, Any], unit: Sequence[float] = ()) -> None:
        super().__init__()
        self.body = DCAE(**network)
        config = self.body.config
        data, latent = int(config["in_channels"]) - int(config["static_channels"]), int(config["latent_channels"])
        if len(unit) not in (0, data):
            raise ValueError(f"unit needs one value for each of the {data} data channels; got {len(unit)}")
        self.factor = self.body.factor
        width = data * self.factor**2
        self.analysis = nn.Linear(width, latent, bias=False)
        self.synthesis = nn.Linear(latent, width, bias=False)
        self.gate = nn.Parameter(torch.zeros(latent))
        self.register_buffer("scale", torch.tensor(list(unit) or [1.0] * data), persistent=False)

    def encode(self, x: Tensor, static: Tensor | None = None) -> Tensor:
        """Return the latent [B, Cz, H/f, W/f] of fields [B, C, H, W]."""
        correction = self.body.encode(x, static).float() * self.gate[:, None, None]
        return self._linear(F.pixel_unshuffle(x.float(), self.factor), self.analysis.weight) + correction

    def decode(self, z: Tensor) -> Tensor:
        """Return the fields [B, C, H, W] of a latent."""
        correction = self.body.decode(z).float() * self.scale[:, None, None]
        return F.pixel_shuffle(self._linear(z.float(), self.synthesis.weight), self.factor) + correction

    def forward(
        self, x: Tensor, static: Tensor | None = None, noise: Callable[[Tensor], Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the latent and the reconstruction of fields; `noise` changes the latent before it is decoded."""
        z = self.encode(x, static)
        return z, self.decode(z if noise is None else noise(z))

    def latent_spec(self, grid: tuple[int, int]) -> LatentSpec:
        """Return the size of the latents of fields on `grid` (rows, columns)."""
        return self.body.latent_spec(grid)

    @property
    def latent_channels(self) -> int:
        """Return Cz."""
        return self.analysis.out_features

    @staticmethod
    def _linear(x: Tensor, weight: Tensor) -> Tensor:
        """Apply a matrix per patch in float32: the large part must not be rounded to half precision."""
        with torch.autocast(x.device.type, enabled=False):
            return F.conv2d(x, weight.float()[:, :, None, None])

    @torch.no_grad()
    def fit(self, x: Tensor) -> Tensor:
        """Set A and B to the principal components of fields [N, C, H, W] and the corrections to zero.

        Returns:
            The RMS error of the linear codec per channel [C], in units of u.
        """
        scale = self.scale.repeat_interleave(self.factor**2).double()
        covariance = torch.zeros(len(scale), len(scale), dtype=torch.float64)
        for part in x.split(50):
            patches = F.pixel_unshuffle(part, self.factor).movedim(1, -1).flatten(0, -2) / scale.float()
            covariance += (patches.T @ patches).double() / len(patches) * (len(part) / len(x))
        values, vectors = torch.linalg.eigh(covariance)
        count, floor = self.latent_channels, 1e-8 * values[-1]  # components below it are rounding, not data
        lead, root = vectors[:, -count:].flip(1), values[-count:].flip(0).clamp(min=floor).sqrt()
        self.analysis.weight.copy_((lead / root).T / scale)
        self.synthesis.weight.copy_(lead * root * scale[:, None])
        nn.init.zeros_(self.gate)
        for parameter in self.body.decoder.conv_out.parameters():
            nn.init.zeros_(parameter)
        error = (covariance - (lead * root**2) @ lead.T).diagonal()
        return error.clamp(min=0).reshape(-1, self.factor**2).mean(1).sqrt()
