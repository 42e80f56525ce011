r"""Hourglass transformer on a plane: convolutions on fine pixels, local attention on coarse tokens, any crop size.

The network that turns noise into fields of any extent (rain, imagery). Pixels are gathered step by step into tokens of
2^(n-1) x 2^(n-1) pixels; transformer blocks work there, and skips bring the detail back (Crowson et al. 2024,
arXiv:2401.11605, "Scalable high-resolution pixel-space image synthesis with hourglass diffusion transformers"). Every
operation is local: a token attends to its own window and a halo round it (Vaswani et al. 2021, arXiv:2103.12731,
section 2.2), and no normalisation looks across places. What a pixel becomes therefore depends on its surroundings and
not on the size of the crop; `reach` says how far these surroundings extend.
"""

from __future__ import annotations

__all__ = ["HourglassTransformer", "LocalAttention"]

from collections.abc import Sequence

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from diffusion.georope import MetricRoPE
from gen.nn.attention import attend, use_backend
from gen.nn.channel_norm import ChannelRMSNorm
from gen.nn.layers import EmbeddingMLP, FeedForward, RMSNorm, SharedModulation, modulate, timestep_features
from gen.nn.rotary import rotary_table, rotate


class HourglassTransformer(ModelMixin, ConfigMixin):
    """Map fields [B, C, H, W] and a noise level to fields [B, C', H, W], given fields and numbers known beforehand.

    Args:
        in_channels: C.
        out_channels: C'.
        cond_channels: channels of the known fields.
        cond_features: known numbers per sample.
        widths: channels from full resolution to tokens; each further level halves both sides.
        depths: blocks of each level, before and after the tokens; the last entry counts the transformer blocks.
        head_dim: channels of an attention head, a multiple of 4.
        window: side of an attention window, tokens. halo: tokens round it that are attended to as well, a
            divisor of the window.
        shortest_km, longest_km: wavelengths of the rotary embedding (`MetricRoPE`).
        mlp_ratio: width of the feed-forward layers over that of the tokens.
        noise_scale: factor on `c_noise` in its sinusoidal features.

    Raises:
        ValueError: sizes that do not fit each other.
    """

    _supports_gradient_checkpointing = False

    @register_to_config
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        cond_channels: int = 0,
        cond_features: int = 0,
        widths: Sequence[int] = (24, 64, 128),
        depths: Sequence[int] = (1, 1, 6),
        head_dim: int = 32,
        window: int = 8,
        halo: int = 4,
        shortest_km: float = 4.0,
        longest_km: float = 512.0,
        mlp_ratio: float = 3.0,
        noise_scale: float = 32.0,
    ) -> None:
        super().__init__()
        if len(widths) != len(depths) or len(widths) < 2:
            raise ValueError(f"widths and depths need the same length, at least 2; got {len(widths)}, {len(depths)}")
        if widths[-1] % head_dim or head_dim % 4:
            raise ValueError(f"head_dim must be a multiple of 4 that divides {widths[-1]}; got {head_dim}")
        if halo < 1 or window % halo:
            raise ValueError(f"halo must be positive and divide the window {window}; got {halo}")
        dim, self.factor = widths[-1], 2 ** (len(widths) - 1)
        self.rope = MetricRoPE(head_dim, shortest_km, longest_km)
        self.noise_embed = EmbeddingMLP(128, dim)
        self.feature_embed = EmbeddingMLP(cond_features, dim) if cond_features else None
        self.shared_modulation = nn.Linear(dim, 6 * dim)
        self.stem = nn.Conv2d(in_channels + cond_channels, widths[0], 3, padding=1)
        fine = list(zip(widths[:-1], depths[:-1], strict=True))
        self.down_blocks = nn.ModuleList(_blocks(width, depth, dim) for width, depth in fine)
        self.downs = nn.ModuleList(nn.Conv2d(4 * a, b, 1) for a, b in zip(widths[:-1], widths[1:], strict=True))
        self.tokens = nn.ModuleList(TokenBlock(dim, head_dim, window, halo, mlp_ratio) for _ in range(depths[-1]))
        self.ups = nn.ModuleList(nn.Conv2d(b, 4 * a, 1) for a, b in zip(widths[:-1], widths[1:], strict=True))
        self.up_blocks = nn.ModuleList(_blocks(width, max(1, depth), dim) for width, depth in fine)
        self.head_norm = ChannelRMSNorm(widths[0], eps=1e-6)
        self.head = nn.Conv2d(widths[0], out_channels, 3, padding=1)
        for layer in (self.head, self.shared_modulation):
            nn.init.zeros_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

    @property
    def align(self) -> int:
        """Return the number of pixels that windows are aligned to: crops that start at its multiples agree."""
        return int(self.factor * self.config["window"])

    @property
    def reach(self) -> int:
        """Return how many pixels away a change of the input can still change the output."""
        window, halo, depths = (self.config[k] for k in ("window", "halo", "depths"))
        convolutions = sum(2 * (depth + max(1, depth)) * 2**i for i, depth in enumerate(depths[:-1])) + 2
        return int(convolutions + self.factor * (depths[-1] * (window + halo) + 1))

    def use_attention(self, backend: str) -> None:
        """Choose the attention backend of all blocks; raises ``ValueError`` where it does not work."""
        use_backend(self, backend)

    def forward(
        self,
        x: Tensor,
        c_noise: Tensor | float = 0.0,
        fields: Tensor | None = None,
        features: Tensor | None = None,
        place_km: Tensor | None = None,
    ) -> Tensor:
        """Evaluate the network.

        Args:
            x: noisy fields [B, C, H, W]; H and W multiples of `factor`.
            c_noise: noise level as the preconditioning tells it, [B] or one number.
            fields: known fields [B or 1, Cc, H, W].
            features: known numbers [B or 1, S].
            place_km: kilometres north and east of any origin [2, H, W] or [B, 2, H, W]; one per pixel by default.

        Returns:
            [B, C', H, W].

        Raises:
            ValueError: a size that `factor` does not divide.
        """
        batch, (rows, columns) = x.shape[0], x.shape[-2:]
        if rows % self.factor or columns % self.factor:
            raise ValueError(f"rows and columns must be multiples of {self.factor}; got {rows} x {columns}")
        condition = self._condition(x, c_noise, features)
        if fields is not None:
            x = torch.cat([x, fields.to(x.dtype).expand(batch, -1, -1, -1)], dim=1)
        x, skips = self.stem(x.contiguous(memory_format=torch.channels_last)), []
        for blocks, down in zip(self.down_blocks, self.downs, strict=True):
            for block in blocks:  # type: ignore[attr-defined]
                x = block(x, condition)
            skips.append(x)
            x = down(F.pixel_unshuffle(x, 2))
        x = self._attend(x, condition, self._table(place_km, x))
        for blocks, up, skip in zip(reversed(self.up_blocks), reversed(self.ups), reversed(skips), strict=True):
            x = F.pixel_shuffle(up(x), 2) + skip
            for block in blocks:  # type: ignore[attr-defined]
                x = block(x, condition)
        return self.head(F.silu(self.head_norm(x)))

    def _condition(self, x: Tensor, c_noise: Tensor | float, features: Tensor | None) -> Tensor:
        """Return the condition vector [B, D]."""
        noise = torch.as_tensor(c_noise, dtype=torch.float32, device=x.device).reshape(-1).expand(x.shape[0])
        scale = float(self.config["noise_scale"])
        condition = self.noise_embed(timestep_features(noise, 128, scale).to(self.stem.weight.dtype))
        if self.feature_embed is not None:
            if features is None:
                raise ValueError(f"the network needs {self.config['cond_features']} features per sample")
            condition = condition + self.feature_embed(features.to(condition.dtype)).expand(x.shape[0], -1)
        return F.silu(condition)

    def _attend(self, x: Tensor, condition: Tensor, table: Tensor) -> Tensor:
        tokens, shared = rearrange(x, "b d h w -> b h w d"), self.shared_modulation(condition)
        for block in self.tokens:
            tokens = block(tokens, shared, table)
        return rearrange(tokens, "b h w d -> b d h w").contiguous(memory_format=torch.channels_last)

    def _table(self, place_km: Tensor | None, x: Tensor) -> Tensor:
        """Return the rotary table of tokens [B or 1, 1, h, w, head_dim / 2]; a token lies at the mean of its pixels."""
        rows, columns = x.shape[-2:]
        if place_km is None:
            middle = (self.factor - 1) / 2
            north = -(torch.arange(rows, device=x.device, dtype=torch.float64) * self.factor + middle)
            east = torch.arange(columns, device=x.device, dtype=torch.float64) * self.factor + middle
            place = torch.stack(torch.meshgrid(north, east, indexing="ij"))[None]
        else:
            place = place_km.double() if place_km.ndim == 4 else place_km.double()[None]
            place = F.avg_pool2d(place, self.factor)
        angles = self.rope.angles(place[:, 0], place[:, 1])
        return rotary_table(angles, torch.promote_types(x.dtype, torch.float32))[:, None]


class ConvBlock(nn.Module):
    """Add conv(SiLU(conv(SiLU(norm x modulated)))) to x [B, C, H, W]; the second convolution starts at zero.

    Args:
        channels: C.
        dim: width of the condition.
    """

    def __init__(self, channels: int, dim: int) -> None:
        super().__init__()
        self.norm = ChannelRMSNorm(channels, eps=1e-6)
        self.modulation = nn.Linear(dim, 2 * channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        for parameter in (*self.modulation.parameters(), *self.conv2.parameters()):
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Return x [B, C, H, W] with its correction, given the condition [B, D]."""
        shift, scale = self.modulation(condition)[:, :, None, None].chunk(2, dim=1)
        h = torch.addcmul(shift, self.norm(x).to(shift.dtype), 1 + scale)
        return x + self.conv2(F.silu(self.conv1(F.silu(h))))


class TokenBlock(nn.Module):
    """Local attention and a feed-forward layer, both modulated, gated and residual, on tokens [B, h, w, D]."""

    def __init__(self, dim: int, head_dim: int, window: int, halo: int, mlp_ratio: float) -> None:
        super().__init__()
        self.modulation = SharedModulation(dim, 6)
        self.attention = LocalAttention(dim, head_dim, window, halo)
        self.ff = FeedForward(dim, int(mlp_ratio * dim))

    def forward(self, x: Tensor, shared: Tensor, table: Tensor) -> Tensor:
        """Return the tokens after the block."""
        rows, columns = x.shape[1:3]
        parts = self.modulation(shared)
        flat = x.flatten(1, 2)
        a = modulate(flat, parts[0], parts[1]).unflatten(1, (rows, columns))
        flat = torch.addcmul(flat, parts[2].to(flat.dtype), self.attention(a, table).flatten(1, 2).to(flat.dtype))
        h = self.ff(modulate(flat, parts[3], parts[4]))
        return torch.addcmul(flat, parts[5].to(flat.dtype), h.to(flat.dtype)).unflatten(1, (rows, columns))


class LocalAttention(nn.Module):
    """Let every token attend to its window and a halo round it; nothing lies beyond the edge of the field.

    Args:
        dim: D. head_dim: channels of a head. window: side of a window. halo: tokens round it.
    """

    def __init__(self, dim: int, head_dim: int, window: int, halo: int) -> None:
        super().__init__()
        self.head_dim, self.window, self.halo, self.backend = head_dim, window, halo, "auto"
        self.to_qkv = nn.Linear(dim, 3 * dim)
        self.norm_q, self.norm_k = RMSNorm(head_dim), RMSNorm(head_dim)
        self.to_out = nn.Linear(dim, dim)

    def forward(self, x: Tensor, table: Tensor) -> Tensor:
        """Attend among tokens [B, h, w, D]; `table` is their rotary table [B or 1, 1, h, w, head_dim / 2]."""
        (rows, columns), w = x.shape[1:3], self.window
        q, k, v = rearrange(self.to_qkv(x), "b h w (n a d) -> n b a h w d", n=3, d=self.head_dim)
        q, k = rotate(self.norm_q(q), table).to(v.dtype), rotate(self.norm_k(k), table).to(v.dtype)
        below, right = -rows % w, -columns % w
        q = F.pad(q, (0, 0, 0, right, 0, below))
        queries = rearrange(q, "b a (i p) (j r) d -> (b i j) a (p r) d", p=w, r=w)
        keys, values = (self._surroundings(t, below, right) for t in (k, v))
        mask = self._inside(rows, columns, below, right, x.device)
        small = self.backend == "auto" and x.device.type == "cpu"  # small blocks: plain products are faster there
        backend = "matmul" if small else self.backend
        out = rearrange(
            attend(queries, keys, values, mask.repeat(x.shape[0], 1, 1, 1), backend),
            "(b i j) a (p r) d -> b (i p) (j r) (a d)", i=(rows + below) // w, j=(columns + right) // w, p=w,
        )  # fmt: skip
        return self.to_out(out[:, :rows, :columns])

    def _surroundings(self, x: Tensor, below: int, right: int) -> Tensor:
        """Return the tokens [B, heads, h, w, d] of every window and its halo, [B windows, heads, tokens, d]."""
        h, parts = self.halo, self.window // self.halo
        x = F.pad(x, (0, 0, h, h + right, h, h + below))
        x = rearrange(x, "b a (i p) (j r) d -> i j b a p r d", p=h, r=h)  # blocks as large as the halo
        rows, columns = (x.shape[0] - 2) // parts, (x.shape[1] - 2) // parts
        x = torch.stack([x[k::parts][:rows] for k in range(parts + 2)])
        x = torch.stack([x[:, :, k::parts][:, :, :columns] for k in range(parts + 2)])
        return rearrange(x, "l k i j b a p r d -> (b i j) a (k p l r) d")

    def _inside(self, rows: int, columns: int, below: int, right: int, device: torch.device) -> Tensor:
        """Return which tokens of every window and its halo exist, [windows, 1, 1, tokens]."""
        there = torch.ones(1, 1, rows, columns, 1, device=device)
        found = self._surroundings(there, below, right)[..., 0] > 0
        return found[:, :, None, :]


def _blocks(width: int, depth: int, dim: int) -> nn.ModuleList:
    return nn.ModuleList(ConvBlock(width, dim) for _ in range(depth))
