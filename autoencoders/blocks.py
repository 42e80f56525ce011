"""Blocks of the deep-compression autoencoder (Chen et al. 2025, arXiv:2410.10733) on the sphere.

Residual convolution blocks on fine grids, linear attention with several scales on coarse ones (Cai et al. 2023,
arXiv:2205.14756), and changes of resolution that move space into channels with a shortcut that has no weights:
averages over groups of channels on the way down, repeated channels on the way up.
"""

from __future__ import annotations

__all__ = [
    "Down",
    "EfficientViTBlock",
    "MultiscaleAttention",
    "ResBlock",
    "Up",
    "add_repeated",
    "group_mean",
    "make_block",
]

from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from gen.nn.channel_norm import ChannelRMSNorm
from gen.nn.sphere import SphereConv2d


class ResBlock(nn.Module):
    """Add RMSNorm(conv(SiLU(conv x))) to x [B, C, H, W]."""

    def __init__(self, channels: int, padding: str) -> None:
        super().__init__()
        self.conv1 = SphereConv2d(channels, channels, 3, padding_mode=padding)
        self.conv2 = SphereConv2d(channels, channels, 3, bias=False, padding_mode=padding)
        self.norm = ChannelRMSNorm(channels, eps=1e-5)

    def forward(self, x: Tensor) -> Tensor:
        """Return x plus its correction."""
        return _residual(x, self.norm(self.conv2(F.silu(self.conv1(x), inplace=True))))


class EfficientViTBlock(nn.Module):
    """Mix points by linear attention, then channels by a gated convolution, both residual.

    Args:
        channels: C.
        head_dim: width of a head; C // head_dim heads (the rest of C is dropped by the projection).
        scales: odd kernel sizes of the depthwise convolutions that give further sets of query, key and value.
        padding: see `gen.nn.sphere.SphereConv2d`.
    """

    def __init__(self, channels: int, head_dim: int, scales: Sequence[int], padding: str) -> None:
        super().__init__()
        self.attn = MultiscaleAttention(channels, head_dim, scales, padding)
        self.conv_out = GatedConv(channels, padding)

    def forward(self, x: Tensor) -> Tensor:
        """Return the mixed field [B, C, H, W]."""
        x = _residual(x, self.attn(x))
        return _residual(x, self.conv_out(x))


class MultiscaleAttention(nn.Module):
    """Attend over all points of [B, C, H, W] with ReLU feature maps: cost linear in the number of points.

        o_i = sum_j relu(q_i).relu(k_j) v_j / sum_j relu(q_i).relu(k_j)

    Query, key and value of a head are consecutive groups of `head_dim` channels of the stacked projections
    [q; k; v] and their filtered copies, as in the published weights of this family.
    """

    def __init__(self, channels: int, head_dim: int, scales: Sequence[int], padding: str) -> None:
        super().__init__()
        heads = channels // head_dim
        if heads < 1:
            raise ValueError(f"attention_head_dim must not exceed the width of the block, {channels}; got {head_dim}")
        inner = heads * head_dim
        self.head_dim = head_dim
        self.to_q = nn.Linear(channels, inner, bias=False)
        self.to_k = nn.Linear(channels, inner, bias=False)
        self.to_v = nn.Linear(channels, inner, bias=False)
        self.to_qkv_multiscale = nn.ModuleList(ScaleProjection(3 * inner, head_dim, k, padding) for k in scales)
        self.to_out = nn.Linear(inner * (1 + len(scales)), channels, bias=False)
        self.norm_out = ChannelRMSNorm(channels, eps=1e-5)

    def forward(self, x: Tensor) -> Tensor:
        """Return the attended field [B, C, H, W]."""
        weight = torch.cat([self.to_q.weight, self.to_k.weight, self.to_v.weight])
        qkv = F.linear(x.movedim(1, -1), weight)
        stacks = [qkv.flatten(1, 2).unflatten(-1, (-1, self.head_dim))]
        stacks += [scale(qkv.movedim(-1, 1)) for scale in self.to_qkv_multiscale]
        out = torch.cat([self._attend(stack).to(qkv.dtype) for stack in stacks], dim=-1)
        return self.norm_out(self.to_out(out).unflatten(1, x.shape[-2:]).movedim(-1, 1))

    @staticmethod
    def _attend(stack: Tensor) -> Tensor:
        """Attend within each three groups in a row of [B, N, 3 h, D]; return [B, N, h D]."""
        q, k, v = stack.unflatten(2, (-1, 3)).movedim(1, 3).unbind(2)
        return linear_attention(q, k, v).transpose(1, 2).flatten(2)


def linear_attention(q: Tensor, k: Tensor, v: Tensor, eps: float = 1e-15) -> Tensor:
    """Attend with ReLU features over [B, heads, N, D], in float32 or better also under autocast."""
    wide = torch.promote_types(q.dtype, torch.float32)
    with torch.autocast(q.device.type, enabled=False):
        q, k, v = q.to(wide).relu(), k.to(wide).relu(), v.to(wide)
        total = q @ k.sum(2)[..., None]
        return (q @ (k.mT @ v)) / (total + eps)


class ScaleProjection(nn.Module):
    """Filter stacked projections [B, 3 h D, H, W] with a depthwise convolution and mix within each group of D.

    The mixing is a product of matrices for each group: a grouped convolution runs its groups one after the other.
    """

    def __init__(self, channels: int, head_dim: int, kernel_size: int, padding: str) -> None:
        super().__init__()
        self.proj_in = SphereConv2d(channels, channels, kernel_size, bias=False, groups=channels, padding_mode=padding)
        self.proj_out = nn.Conv2d(channels, channels, 1, groups=channels // head_dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the filtered projections in groups, [B, H W, 3 h, D]."""
        groups, dim = self.proj_out.groups, self.proj_out.weight.shape[1]
        filtered = self.proj_in(x).movedim(1, -1).unflatten(-1, (groups, dim))
        mixed = filtered.flatten(0, 2).transpose(0, 1) @ self.proj_out.weight.view(groups, dim, dim).mT
        return mixed.transpose(0, 1).unflatten(0, (len(x), -1))


class GatedConv(nn.Module):
    """Expand to 8 C, filter depthwise, gate a * SiLU(g) and contract to C."""

    def __init__(self, channels: int, padding: str) -> None:
        super().__init__()
        self.conv_inverted = nn.Conv2d(channels, 8 * channels, 1)
        self.conv_depth = SphereConv2d(8 * channels, 8 * channels, 3, groups=8 * channels, padding_mode=padding)
        self.conv_point = nn.Conv2d(4 * channels, channels, 1, bias=False)
        self.norm = ChannelRMSNorm(channels, eps=1e-7)

    def forward(self, x: Tensor) -> Tensor:
        """Return the correction to x [B, C, H, W]."""
        wide = F.silu(_pointwise(self.conv_inverted, x), inplace=True)
        value, gate = self.conv_depth(wide).chunk(2, dim=1)
        return self.norm(_pointwise(self.conv_point, value * F.silu(gate)))


class Down(nn.Module):
    """Halve both sides of [B, Cin, H, W]: space to channels, plus group means of the input's."""

    def __init__(self, in_channels: int, out_channels: int, padding: str) -> None:
        super().__init__()
        if out_channels % 4 or (4 * in_channels) % out_channels:
            raise ValueError(
                f"a stage of width {out_channels} after one of {in_channels} has no shortcut:"
                f" its width must be a multiple of 4 that divides {4 * in_channels}"
            )
        self.out_channels = out_channels
        self.conv = SphereConv2d(in_channels, out_channels // 4, 3, padding_mode=padding)

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, Cout, H/2, W/2]."""
        short = group_mean(pixel_unshuffle(x), self.out_channels)
        return _residual(short, pixel_unshuffle(self.conv(x)))


class Up(nn.Module):
    """Double both sides of [B, Cin, H, W]: channels to space, plus repeated channels of the input."""

    def __init__(self, in_channels: int, out_channels: int, padding: str) -> None:
        super().__init__()
        if (4 * out_channels) % in_channels:
            raise ValueError(
                f"a stage of width {out_channels} above one of {in_channels} has no shortcut:"
                f" four times its width must be a multiple of {in_channels}"
            )
        self.conv = SphereConv2d(in_channels, 4 * out_channels, 3, padding_mode=padding)

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, Cout, 2H, 2W]."""
        return pixel_shuffle(add_repeated(self.conv(x), x))


def group_mean(x: Tensor, channels: int) -> Tensor:
    """Average consecutive channels of [B, C, H, W] down to `channels`."""
    return x if x.shape[1] == channels else x.unflatten(1, (channels, -1)).mean(2)


def add_repeated(x: Tensor, short: Tensor) -> Tensor:
    """Add to the channels of [B, n C, H, W], in place, those of [B, C, H, W], each n times in a row."""
    return _residual(short.unsqueeze(2), x.unflatten(1, (short.shape[1], -1))).flatten(1, 2)


def pixel_unshuffle(x: Tensor) -> Tensor:
    """Move squares of 2 x 2 points of [B, C, H, W] into channels, [B, 4 C, H/2, W/2], next to each other in memory."""
    return rearrange(x, "b c (h p) (w q) -> b h w (c p q)", p=2, q=2).movedim(-1, 1)


def pixel_shuffle(x: Tensor) -> Tensor:
    """Move channels [B, 4 C, H, W] into squares of 2 x 2 points, [B, C, 2 H, 2 W]; the channels stay neighbours."""
    return rearrange(x, "b (c p q) h w -> b (h p) (w q) c", p=2, q=2).movedim(-1, 1)


def make_block(kind: str, channels: int, head_dim: int, scales: Sequence[int], padding: str) -> nn.Module:
    """Return a block by its name in the configuration, "ResBlock" or "EfficientViTBlock"."""
    if kind == "ResBlock":
        return ResBlock(channels, padding)
    if kind == "EfficientViTBlock":
        return EfficientViTBlock(channels, head_dim, scales, padding)
    raise ValueError(f"block type must be ResBlock or EfficientViTBlock; got {kind!r}")


def _pointwise(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """Apply a convolution of size 1 as a product of matrices, the faster form where channels are neighbours."""
    return F.linear(x.movedim(1, -1), conv.weight.flatten(1), conv.bias).movedim(-1, 1)


def _residual(x: Tensor, branch: Tensor) -> Tensor:
    """Return x + branch; the new branch, which nothing else reads, becomes the sum where its type and shape allow."""
    fits = branch.dtype == torch.promote_types(x.dtype, branch.dtype)
    return branch.add_(x) if fits else x + branch
