r"""A deep-compression autoencoder that corrects a linear one.

    z = A P(x) + E(x),    x' = P^-1(B N(z)) + u D(z)

P moves f x f cells into channels; A starts as the leading principal components of such patches (in units u, the
6 h persistence error per channel, so that the components matter as a forecast needs them), scaled to unit variance. N
collects the latents of k x k neighbouring patches, and B starts as the least-squares estimate of a patch from them:
for k = 1 the same principal components, for k = 3 a decoder that knows that fields are continuous across patches. E
and D are the encoder and decoder of `autoencoders.dcae.DCAE` with their last convolution at zero. Training therefore
starts at the best linear codec of its kind instead of at noise: atmospheric fields are reconstructed to a few per cent
of their variance, which a network alone reaches only after long training.
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
from gen.nn.sphere import sphere_pad


class PrincipalDCAE(ModelMixin, ConfigMixin):
    """Encode and decode by trainable principal components of patches, corrected by a `DCAE`.

    Args:
        network: arguments of `autoencoders.dcae.DCAE`.
        unit: scale u of the decoder's correction per data channel [C]; empty means 1.
        context: k, odd: a patch is synthesised from the latents of k x k patches.

    Raises:
        ValueError: a unit for another number of channels, or an even context.
    """

    scale: Tensor

    @register_to_config
    def __init__(self, network: dict[str, Any], unit: Sequence[float] = (), context: int = 1) -> None:
        super().__init__()
        if context < 1 or context % 2 == 0:
            raise ValueError(f"context must be odd and positive; got {context}")
        self.body = DCAE(**network)
        config = self.body.config
        data, latent = int(config["in_channels"]) - int(config["static_channels"]), int(config["latent_channels"])
        if len(unit) not in (0, data):
            raise ValueError(f"unit needs one value for each of the {data} data channels; got {len(unit)}")
        self.factor = self.body.factor
        width = data * self.factor**2
        self.analysis = nn.Linear(width, latent, bias=False)
        self.synthesis = nn.Linear(latent * context**2, width, bias=False)
        self.gate = nn.Parameter(torch.zeros(latent))
        self.register_buffer("scale", torch.tensor(list(unit) or [1.0] * data), persistent=False)

    def encode(self, x: Tensor, static: Tensor | None = None) -> Tensor:
        """Return the latent [B, Cz, H/f, W/f] of fields [B, C, H, W]."""
        correction = self.body.encode(x, static).float() * self.gate[:, None, None]
        return self._linear(F.pixel_unshuffle(x.float(), self.factor), self.analysis.weight) + correction

    def decode(self, z: Tensor) -> Tensor:
        """Return the fields [B, C, H, W] of a latent."""
        correction = self.body.decode(z).float() * self.scale[:, None, None]
        patches = self._linear(self._neighbours(z.float()), self.synthesis.weight)
        return F.pixel_shuffle(patches, self.factor) + correction

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

    def _neighbours(self, z: Tensor) -> Tensor:
        """Return the latents of k x k patches as channels [B, k k Cz, h, w], row by row of the neighbourhood."""
        if (k := int(self.config["context"])) == 1:
            return z
        padded, (h, w) = sphere_pad(z, k // 2), z.shape[-2:]
        return torch.cat([padded[..., i : i + h, j : j + w] for i in range(k) for j in range(k)], dim=1)

    @staticmethod
    def _linear(x: Tensor, weight: Tensor) -> Tensor:
        """Apply a matrix per patch in float32: the large part must not be rounded to half precision."""
        with torch.autocast(x.device.type, enabled=False):
            return F.conv2d(x, weight.float()[:, :, None, None])

    @torch.no_grad()
    def fit(self, x: Tensor) -> Tensor:
        """Set A to the principal components of fields [N, C, H, W], B to its best companion, the corrections to zero.

        Returns:
            The RMS error of the linear codec on these fields per channel [C], in units of u.
        """
        scale = self.scale.repeat_interleave(self.factor**2).double()
        covariance = torch.zeros(len(scale), len(scale), dtype=torch.float64)
        for part in x.split(50):
            patches = self._patches(part)
            covariance += (patches.T @ patches).double() / len(patches) * (len(part) / len(x))
        values, vectors = torch.linalg.eigh(covariance)
        count, floor = self.latent_channels, 1e-8 * values[-1]  # components below it are rounding, not data
        lead, root = vectors[:, -count:].flip(1), values[-count:].flip(0).clamp(min=floor).sqrt()
        self.analysis.weight.copy_((lead / root).T / scale)
        if int(self.config["context"]) == 1:
            synthesis, explained = lead * root, (lead * root**2) @ lead.T
        else:
            synthesis, explained = self._regress(x)
        self.synthesis.weight.copy_(synthesis * scale[:, None])
        nn.init.zeros_(self.gate)
        for parameter in self.body.decoder.conv_out.parameters():
            nn.init.zeros_(parameter)
        error = (covariance - explained).diagonal()
        return error.clamp(min=0).reshape(-1, self.factor**2).mean(1).sqrt()

    def _patches(self, x: Tensor) -> Tensor:
        """Return patches of fields in units of u [N h w, C f f]."""
        scale = self.scale.repeat_interleave(self.factor**2)
        return F.pixel_unshuffle(x, self.factor).movedim(1, -1).flatten(0, -2) / scale

    def _regress(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the least-squares synthesis [C f f, k k Cz] in units of u, and the covariance that it explains."""
        width, inputs = self.synthesis.weight.shape
        gram, cross = torch.zeros(inputs, inputs).double(), torch.zeros(inputs, width).double()
        for part in x.split(50):
            latent = self._linear(F.pixel_unshuffle(part.float(), self.factor), self.analysis.weight)
            z, share = self._neighbours(latent).movedim(1, -1).flatten(0, -2), len(part) / len(x)
            gram += (z.T @ z).double() / len(z) * share
            cross += (z.T @ self._patches(part)).double() / len(z) * share
        ridge = 1e-6 * gram.diagonal().mean() * torch.eye(inputs, dtype=torch.float64)
        synthesis = torch.linalg.solve(gram + ridge, cross).T
        return synthesis, synthesis @ cross
