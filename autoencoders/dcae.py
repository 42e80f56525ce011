"""Deep-compression autoencoder (Chen et al. 2025, arXiv:2410.10733) on the sphere (LaDCast, arXiv:2506.09193).

Every stage halves the grid, so n stages compress each side by 2^(n-1). The configuration and the parameter names are
those of the published LaDCast weights, which load with `padding="ladcast"`.
"""

from __future__ import annotations

__all__ = ["DCAE"]

from collections.abc import Callable, Sequence

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional as F

from autoencoders.base import LatentSpec
from autoencoders.blocks import Down, Up, add_repeated, group_mean, make_block
from gen.nn.channel_norm import ChannelRMSNorm
from gen.nn.sphere import PADDING_MODES, SphereConv2d

_FIXED = {
    "temb_channels": None,
    "upsample_block_type": "pixel_shuffle",
    "downsample_block_type": "pixel_unshuffle",
    "decoder_norm_types": "rms_norm",
    "decoder_act_fns": "silu",
    "scaling_factor": 1.0,
}


class DCAE(ModelMixin, ConfigMixin):
    """Encode normalised fields [B, C, H, W] to latents [B, Cz, H/f, W/f] and decode them; deterministic.

    Args:
        in_channels: C + S, data and static channels read by the encoder.
        out_channels: C + S, channels written by the decoder (the static ones are dropped by `decode`).
        static_channels: S, the last channels of both.
        latent_channels: Cz; must divide the width of the last stage.
        attention_head_dim: width of an attention head.
        encoder_block_out_channels: width of each stage, from the finest grid to the coarsest.
        encoder_layers_per_block: blocks of each stage.
        encoder_block_types: "ResBlock" or "EfficientViTBlock" for each stage; None means ResBlock everywhere.
        encoder_qkv_multiscales: kernel sizes of the further attention scales of each stage; None means none.
        decoder_block_out_channels, decoder_layers_per_block, decoder_block_types, decoder_qkv_multiscales: the same
            for the decoder, also from the finest grid to the coarsest; None means as in the encoder.
        padding: "sphere", "ladcast" or "plane", see `gen.nn.sphere.SphereConv2d`.
        vector_channels: data channels that are components of a vector; with `padding="sphere"` they change sign over
            the pole in the first and the last convolution.
        temb_channels, upsample_block_type, downsample_block_type, decoder_norm_types, decoder_act_fns,
            scaling_factor: read from published configurations; only the values above `DCAE` exist.

    Raises:
        ValueError: if the stages do not fit each other, or a published option has no counterpart here.
    """

    _supports_gradient_checkpointing = False

    @register_to_config
    def __init__(
        self,
        in_channels: int = 33,
        out_channels: int = 33,
        static_channels: int = 0,
        latent_channels: int = 64,
        attention_head_dim: int = 32,
        encoder_block_out_channels: Sequence[int] = (64, 128, 256),
        encoder_layers_per_block: Sequence[int] = (1, 2, 2),
        encoder_block_types: Sequence[str] | None = None,
        encoder_qkv_multiscales: Sequence[Sequence[int]] | None = None,
        decoder_block_out_channels: Sequence[int] | None = None,
        decoder_layers_per_block: Sequence[int] | None = None,
        decoder_block_types: Sequence[str] | None = None,
        decoder_qkv_multiscales: Sequence[Sequence[int]] | None = None,
        padding: str = "sphere",
        vector_channels: Sequence[int] = (),
        temb_channels: int | None = None,
        upsample_block_type: str = "pixel_shuffle",
        downsample_block_type: str = "pixel_unshuffle",
        decoder_norm_types: str = "rms_norm",
        decoder_act_fns: str = "silu",
        scaling_factor: float = 1.0,
    ) -> None:
        super().__init__()
        _check_fixed(dict(self.config))
        if padding not in PADDING_MODES:
            raise ValueError(f"padding must be one of {', '.join(PADDING_MODES)}; got {padding!r}")
        if not 0 <= static_channels < min(in_channels, out_channels):
            raise ValueError(f"static_channels must leave at least one data channel; got {static_channels}")
        encoder = _stages(
            encoder_block_out_channels, encoder_layers_per_block, encoder_block_types, encoder_qkv_multiscales
        )
        decoder = _stages(
            decoder_block_out_channels or encoder_block_out_channels,
            decoder_layers_per_block or encoder_layers_per_block,
            decoder_block_types or encoder_block_types,
            decoder_qkv_multiscales or encoder_qkv_multiscales,
        )
        if len(encoder) != len(decoder):
            raise ValueError(f"encoder and decoder need the same number of stages; got {len(encoder)}, {len(decoder)}")
        vectors = tuple(vector_channels)
        self.encoder = Encoder(in_channels, latent_channels, encoder, attention_head_dim, padding, vectors)
        self.decoder = Decoder(out_channels, latent_channels, decoder, attention_head_dim, padding, vectors)
        self.factor = 2 ** (len(encoder) - 1)

    def encode(self, x: Tensor, static: Tensor | None = None) -> Tensor:
        """Return the latent [B, Cz, H/f, W/f] of fields [B, C, H, W].

        Args:
            x: normalised data channels (or data and static channels together).
            static: normalised static channels [S, H, W] or [B, S, H, W], or None where `x` holds them or S is 0.

        Raises:
            ValueError: if the channels are not those of the configuration, or f does not divide the grid.
        """
        if static is not None:
            x = torch.cat([x, static.to(x.dtype).expand(x.shape[0], -1, -1, -1)], dim=1)
        expected, statics = int(self.config["in_channels"]), self.config["static_channels"]
        if x.shape[1] != expected:
            raise ValueError(f"the encoder reads {expected} channels, {statics} of them static; got {x.shape[1]}")
        self.latent_spec((x.shape[-2], x.shape[-1]))
        return self.encoder(x.contiguous(memory_format=torch.channels_last))

    def decode(self, z: Tensor, channels: Sequence[int] | None = None, return_static: bool = False) -> Tensor:
        """Return the fields [B, C, H, W] of a latent [B, Cz, H/f, W/f].

        Args:
            z: latent.
            channels: which data channels to return, in this order; the last layer computes no others. None means all.
            return_static: whether all C + S channels are returned, and may be asked for.

        Raises:
            ValueError: another number of latent channels, or a channel that is not there.
        """
        expected = int(self.config["latent_channels"])
        if z.shape[1] != expected:
            raise ValueError(f"the decoder reads {expected} latent channels; got {z.shape[1]}")
        written = int(self.config["out_channels"]) - (0 if return_static else int(self.config["static_channels"]))
        wanted = list(range(written)) if channels is None else [int(c) for c in channels]
        if not wanted or not all(0 <= c < written for c in wanted):
            raise ValueError(f"channels must be numbers in [0, {written}); got {wanted}")
        return self.decoder(z.contiguous(memory_format=torch.channels_last), wanted)

    def forward(
        self, x: Tensor, static: Tensor | None = None, noise: Callable[[Tensor], Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the latent and the reconstruction of fields; `noise` changes the latent before it is decoded."""
        z = self.encode(x, static)
        return z, self.decode(z if noise is None else noise(z))

    @property
    def latent_channels(self) -> int:
        """Return Cz."""
        return int(self.config["latent_channels"])

    def latent_spec(self, grid: tuple[int, int]) -> LatentSpec:
        """Return the size of the latents of fields on `grid` (rows, columns); raises ValueError if it does not fit."""
        spec = LatentSpec.for_grid(int(self.config["latent_channels"]), self.factor, grid)
        if self.config["padding"] != "plane" and spec.shape[1] % 2:
            raise ValueError(f"padding over the poles needs an even number of latent columns; got {spec.shape[1]}")
        return spec


class _Stage:
    """Width, depth, block type and attention scales of one resolution."""

    def __init__(self, width: int, layers: int, kind: str, scales: Sequence[int]) -> None:
        self.width, self.layers, self.kind, self.scales = int(width), int(layers), str(kind), tuple(scales)

    def blocks(self, head_dim: int, padding: str) -> list[nn.Module]:
        return [make_block(self.kind, self.width, head_dim, self.scales, padding) for _ in range(self.layers)]


class Encoder(nn.Module):
    """Fields [B, C, H, W] to latents [B, Cz, H/f, W/f]."""

    def __init__(
        self, channels: int, latent: int, stages: list[_Stage], head_dim: int, padding: str, vectors: Sequence[int]
    ) -> None:
        super().__init__()
        _check_shortcut(latent, stages[-1].width)
        self.conv_in = SphereConv2d(channels, stages[0].width, 3, padding_mode=padding, vector_inputs=vectors)
        blocks: list[nn.Module] = []
        for stage, coarser in zip(stages, [*stages[1:], None], strict=True):
            blocks += stage.blocks(head_dim, padding)
            if coarser is not None:
                blocks.append(Down(stage.width, coarser.width, padding))
        self.down_blocks = nn.ModuleList(blocks)
        self.conv_out = SphereConv2d(stages[-1].width, latent, 3, padding_mode=padding)

    def forward(self, x: Tensor) -> Tensor:
        """Encode."""
        x = self.conv_in(x)
        for block in self.down_blocks:
            x = block(x)
        return self.conv_out(x) + group_mean(x, self.conv_out.out_channels)


class Decoder(nn.Module):
    """Latents [B, Cz, H/f, W/f] to fields [B, C, H, W]."""

    def __init__(
        self, channels: int, latent: int, stages: list[_Stage], head_dim: int, padding: str, vectors: Sequence[int]
    ) -> None:
        super().__init__()
        _check_shortcut(latent, stages[-1].width)
        self.conv_in = SphereConv2d(latent, stages[-1].width, 3, padding_mode=padding)
        blocks: list[nn.Module] = []
        for stage, finer in zip(stages[::-1], [*stages[-2::-1], None], strict=True):
            blocks += stage.blocks(head_dim, padding)
            if finer is not None:
                blocks.append(Up(stage.width, finer.width, padding))
        self.up_blocks = nn.ModuleList(blocks)
        self.norm_out = ChannelRMSNorm(stages[0].width, eps=1e-7)
        self.conv_out = SphereConv2d(stages[0].width, channels, 3, padding_mode=padding, vector_outputs=vectors)

    def forward(self, z: Tensor, channels: Sequence[int] | None = None) -> Tensor:
        """Decode the channels asked for, or all."""
        x = add_repeated(self.conv_in(z), z)
        for block in self.up_blocks:
            x = block(x)
        return self.conv_out(F.relu(self.norm_out(x), inplace=True), channels)


def _stages(
    widths: Sequence[int],
    layers: Sequence[int],
    kinds: Sequence[str] | None,
    scales: Sequence[Sequence[int]] | None,
) -> list[_Stage]:
    """Return the stages, from the finest grid to the coarsest."""
    kinds = ["ResBlock"] * len(widths) if kinds is None else kinds
    scales = [()] * len(widths) if scales is None else scales
    if not len(widths) == len(layers) == len(kinds) == len(scales) > 0:
        raise ValueError(
            f"every stage needs a width, a depth, a block type and its scales;"
            f" got {len(widths)}, {len(layers)}, {len(kinds)}, {len(scales)}"
        )
    return [_Stage(*stage) for stage in zip(widths, layers, kinds, scales, strict=True)]


def _check_shortcut(latent: int, width: int) -> None:
    if width % latent:
        raise ValueError(f"latent_channels must divide the width of the last stage, {width}; got {latent}")


def _check_fixed(config: dict[str, object]) -> None:
    """Refuse options of published configurations that have no counterpart here."""
    for key, only in _FIXED.items():
        value = config[key]
        if value != only and not (isinstance(value, (list, tuple)) and all(v == only for v in value)):
            raise ValueError(f"{key} must be {only!r}; got {value!r}")
