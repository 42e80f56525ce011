r"""A codec of fine rain: amounts and rain masks in patches of f x f pixels to latents, and back.

    (a, w) -> z [Cz, H/f, W/f] -> (a', w'),        w = 1 where it rains, else 0,

by the principal components of patches (`autoencoders.principal.PrincipalDCAE`): 2 f^2 of them keep everything, fewer
lose what a small network corrects in part. Patches are measured from dry ones, which have the latent 0, and latents
have unit mean square over the training crops. Nothing looks at the crop as a whole, so that tiles agree. How much of
the rain a codec keeps is measured by `downscaling.codec_gate`, which alone admits it to training.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

__all__ = ["GATE", "RainCodec", "RainCodecMeta", "build_network"]

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autoencoders.principal import PrincipalDCAE
from downscaling.transform import RainTransform

if TYPE_CHECKING:
    from gen.hub import ModelFolder

KIND, GATE = "rain-codec", "gate"


@dataclass(frozen=True)
class RainCodecMeta:
    """What the weights do not say.

    Args:
        transform: arguments of `RainTransform`.
        events: names of the rain that it was trained on, which cannot serve to judge it.
        trained_on: the same in words. name: the codec's name.
    """

    transform: dict[str, Any]
    events: tuple[str, ...]
    trained_on: str
    name: str = "rain-codec"

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> RainCodecMeta:
        """Rebuild from `dataclasses.asdict`."""
        return cls(**{**values, "events": tuple(values["events"])})


class RainCodec(nn.Module):
    """Encode amounts and rain masks, decode them.

    Args:
        network: of two fields, in units of amount and wet. meta: what its weights do not say.
        gate: what `downscaling.codec_gate` has found, None if it has not been asked.
    """

    def __init__(self, network: PrincipalDCAE, meta: RainCodecMeta, gate: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.network, self.meta, self.gate = network, meta, gate
        self.transform = RainTransform(**meta.transform)

    @property
    def factor(self) -> int:
        """Return f, the pixels along the side of a latent cell."""
        return int(self.network.factor)

    @property
    def channels(self) -> int:
        """Return Cz."""
        return int(self.network.latent_channels)

    def encode(self, amount: Tensor, wet: Tensor) -> Tensor:
        """Return the latents [B, Cz, H/f, W/f] of amounts and rain masks [B, H, W]; f divides H and W."""
        return self.network.encode(torch.stack([amount, wet.to(amount)], dim=1)).float()

    def decode(self, z: Tensor) -> Tensor:
        """Return amounts and chances [B, 2, H, W]; it rains where the chance (-1 to 1) is positive."""
        amount, wet = self.network.decode(z).float().unbind(1)
        return torch.stack([amount, 2 * wet - 1], dim=1)

    def analysis(self, amount: Tensor, wet: Tensor) -> Tensor:
        """Return the linear part of the latents of amounts and probabilities of rain [B, H, W]."""
        return self._patchwise(amount, wet, self.network.analysis.weight)

    def spread(self, amount: Tensor, wet: Tensor) -> Tensor:
        """Return the spread of the latents' linear part when pixels have independent spreads [B, H, W]."""
        weight = self.network.analysis.weight.float().square()
        return self._patchwise(amount.square(), wet.square(), weight).sqrt()

    def again(self, rain: Tensor) -> Tensor:
        """Return rain rates [B, H, W] in mm/h encoded and decoded; what is missing stays missing."""
        filled = torch.nan_to_num(rain)
        amount, chance = self.decode(self.encode(self.transform.forward(filled), self.transform.wet(filled))).unbind(1)
        rates = self.transform.inverse(amount).clamp(min=self.transform.threshold)
        found = torch.where(chance > 0, rates, torch.zeros_like(rates))
        return torch.where(torch.isnan(rain), rain, found)

    def _patchwise(self, amount: Tensor, wet: Tensor, weight: Tensor) -> Tensor:
        patches = F.pixel_unshuffle(torch.stack([amount, wet], dim=1).float(), self.factor)
        with torch.autocast(patches.device.type, enabled=False):
            return F.conv2d(patches, weight.float()[:, :, None, None])

    def save(self, folder: Path) -> None:
        """Write the codec as a model folder, without the gate: that belongs to the files that were judged."""
        from gen.hub import save_model

        save_model(folder, {"codec": self.network}, {"kind": KIND}, documents={"codec": asdict(self.meta)})

    @classmethod
    def load(cls, folder: Path | ModelFolder) -> RainCodec:
        """Read the codec of a model folder; raises `gen.hub.HubError` when a file is damaged or there is none."""
        from gen.hub import HubError, open_model

        model = open_model(folder)
        if (kind := model.index.get("kind")) != KIND:
            raise HubError(f"{model.path} holds a model of kind {kind!r}, not a rain codec")
        gate = model.document(GATE) if (model.path / f"{GATE}.json").is_file() else None
        return cls(model.load("codec", PrincipalDCAE), RainCodecMeta.from_dict(model.document("codec")), gate).eval()


def build_network(factor: int, channels: int, *, wet_unit: float = 4.0, width: int = 64) -> PrincipalDCAE:
    """Build the network of a rain codec with fresh weights; `PrincipalDCAE.fit` comes next.

    Args:
        factor: f, 2 or 4.
        channels: Cz, at most 2 f^2.
        wet_unit: error of the rain mask that counts as much as an error of one in the amount.
        width: channels of the correcting network on latents, about (a multiple of Cz and 8 is taken); finer levels have
            a half and a quarter of it.

    Raises:
        ValueError: sizes that do not fit.
    """
    if factor not in (2, 4):
        raise ValueError(f"factor of a rain codec must be 2 or 4; got {factor}")
    if not 1 <= channels <= 2 * factor**2:
        raise ValueError(f"channels must be 1 to {2 * factor**2} for patches of {factor} x {factor}; got {channels}")
    unit = math.lcm(8, channels)
    last = max(1, round(width / unit)) * unit
    stages = [last // 4, last] if factor == 2 else [last // 4, last // 2, last]
    network = {
        "in_channels": 2,
        "out_channels": 2,
        "latent_channels": channels,
        "encoder_block_out_channels": stages,
        "encoder_layers_per_block": [1] * len(stages),
        "padding": "plane",
    }
    return PrincipalDCAE(network, [1.0, wet_unit])
