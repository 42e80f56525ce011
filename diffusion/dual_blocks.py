r"""Blocks of the dual-stream transformer: refiner, dual and single blocks (LaDCast, arXiv 2506.09193, section 3).

Two streams of tokens, target x and condition c, attend jointly. Each block is modulated by a vector of noise level,
season and condition (AdaLN: shift, scale and gate of every branch). Parameter names are those of the published weights.
"""

from __future__ import annotations

__all__ = [
    "DualBlock",
    "FinalModulation",
    "NoiseEmbedding",
    "PatchEmbed",
    "Refiner",
    "RefinerBlock",
    "Rotations",
    "SeasonMLP",
    "SingleBlock",
]

from typing import NamedTuple, cast

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from gen.nn.attention import attend
from gen.nn.layers import (
    EmbeddingMLP,
    FeedForward,
    Modulation,
    RMSNorm,
    SharedModulation,
    gelu_,
    modulate,
    timestep_features,
)
from gen.nn.rotary import rotate


class Rotations(NamedTuple):
    """Hold the rotary tables of target and condition tokens, [N, 1, head_dim / 2, 2], and of both in a row."""

    target: Tensor
    context: Tensor
    both: Tensor


class _Heads(nn.Module):
    """Hold what all attention modules here share: projections to heads, normalised queries and keys."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads, self.backend = heads, "auto"
        self.to_q, self.to_k, self.to_v = (nn.Linear(dim, dim) for _ in range(3))
        self.norm_q, self.norm_k = RMSNorm(dim // heads), RMSNorm(dim // heads)

    def project(self, x: Tensor, table: Tensor | None, count: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Return rotated queries, rotated keys and values, each [B, N, heads, head_dim] in the dtype of the values.

        With ``count`` only the first tokens ask.
        """
        return _project(x, (self.to_q, self.to_k, self.to_v), (self.norm_q, self.norm_k), self.heads, table, count)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return [B, N, D] from [B, N, heads, head_dim]."""
        out = attend(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), backend=self.backend)
        return out.transpose(1, 2).flatten(2)


class _JointAttention(_Heads):
    """Let both streams attend to both; each has its own projections."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__(dim, heads)
        self.add_q_proj, self.add_k_proj, self.add_v_proj = (nn.Linear(dim, dim) for _ in range(3))
        self.norm_added_q, self.norm_added_k = RMSNorm(dim // heads), RMSNorm(dim // heads)
        self.to_out = nn.Sequential(nn.Linear(dim, dim))
        self.to_add_out = nn.Linear(dim, dim)

    def forward(self, x: Tensor, c: Tensor, tables: Rotations, rotate_context: bool) -> tuple[Tensor, Tensor]:
        added = (self.add_q_proj, self.add_k_proj, self.add_v_proj)
        norms = (self.norm_added_q, self.norm_added_k)
        context = _project(c, added, norms, self.heads, tables.context if rotate_context else None)
        streams = zip(self.project(x, tables.target), context, strict=True)
        out = self.attend(*(torch.cat(pair, dim=1) for pair in streams))
        return self.to_out(out[:, : x.shape[1]]), self.to_add_out(out[:, x.shape[1] :])


class DualBlock(nn.Module):
    """Update both streams: joint attention, then a feed-forward layer in each.

    Args:
        dim: width.
        heads: attention heads.
        mlp_ratio: width of the feed-forward layers divided by ``dim``.
        rotate_context: whether the condition's queries and keys carry their position, too (not so in the paper).
        shared: whether the condition arrives as the shared projection [B, 6 D], see `SharedModulation`.
    """

    def __init__(self, dim: int, heads: int, mlp_ratio: float, rotate_context: bool, shared: bool = False) -> None:
        super().__init__()
        self.rotate_context = rotate_context
        self.norm1, self.norm1_context = _modulation(dim, 6, shared), _modulation(dim, 6, shared)
        self.attn = _JointAttention(dim, heads)
        self.ff = FeedForward(dim, int(mlp_ratio * dim))
        self.ff_context = FeedForward(dim, int(mlp_ratio * dim))

    def forward(self, x: Tensor, c: Tensor, condition: Tensor, tables: Rotations) -> tuple[Tensor, Tensor]:
        """Return the new streams x [B, N, D] and c [B, M, D] for the condition [B, D] or its shared projection."""
        shift_x, scale_x, gate_x, *mlp_x = self.norm1(condition)
        shift_c, scale_c, gate_c, *mlp_c = self.norm1_context(condition)
        normal_x, normal_c = modulate(x, shift_x, scale_x), modulate(c, shift_c, scale_c)
        out_x, out_c = self.attn(normal_x, normal_c, tables, self.rotate_context)
        x, c = _gated(x, gate_x, out_x), _gated(c, gate_c, out_c)
        return self._feed(x, self.ff, *mlp_x), self._feed(c, self.ff_context, *mlp_c)

    @staticmethod
    def _feed(x: Tensor, layer: FeedForward, shift: Tensor, scale: Tensor, gate: Tensor) -> Tensor:
        return _gated(x, gate, layer(modulate(x, shift, scale, eps=1e-7)))


class SingleBlock(nn.Module):
    """Update the joined streams with attention and feed-forward side by side.

    out = x + gate proj_out([attention(n), gelu(proj_mlp(n))]), n = modulated LayerNorm(x)
    (Dehghani et al. 2023, "Scaling vision transformers to 22 billion parameters", Eq. 1).

    Args:
        dim: width.
        heads: attention heads.
        mlp_ratio: width of the feed-forward part divided by ``dim``.
        shared: as in `DualBlock`; the first three vectors of the projection are used.
    """

    def __init__(self, dim: int, heads: int, mlp_ratio: float, shared: bool = False) -> None:
        super().__init__()
        hidden = int(mlp_ratio * dim)
        self.norm = _modulation(dim, 3, shared)
        self.attn = _Heads(dim, heads)
        self.proj_mlp = nn.Linear(dim, hidden)
        self.proj_out = nn.Linear(dim + hidden, dim)

    def forward(self, x: Tensor, condition: Tensor, tables: Rotations, count: int | None = None) -> Tensor:
        """Return the new tokens, target first: [B, N + M, D], or the first ``count``, the others being read only."""
        shift, scale, gate = self.norm(condition)
        normal = _lowered(modulate(x, shift, scale))
        attention = self.attn.attend(*self.attn.project(normal, tables.both, count))
        hidden = gelu_(self.proj_mlp(normal[:, :count]))
        del normal
        return _gated(x[:, :count], gate, self._out(attention, hidden))

    def _out(self, attention: Tensor, hidden: Tensor) -> Tensor:
        """Return proj_out([attention, hidden]) without joining the two, the widest array of the network."""
        weight, dim = self.proj_out.weight, attention.shape[-1]
        return F.linear(hidden, weight[:, dim:], self.proj_out.bias).add_(F.linear(attention, weight[:, :dim]))


class NoiseEmbedding(nn.Module):
    """Embed the noise level and the mean token: MLP(features(c_noise)) + MLP(mean over tokens).

    Args:
        dim: width.
        scale: see `gen.nn.layers.timestep_features`.
        features: number of features of the noise level.
    """

    def __init__(self, dim: int, scale: float, features: int = 256) -> None:
        super().__init__()
        self.scale, self.features = scale, features
        self.timestep_embedder = EmbeddingMLP(features, dim)
        self.text_embedder = EmbeddingMLP(dim, dim)

    def pooled(self, tokens: Tensor) -> Tensor:
        """Return the part of the tokens [B, M, D], as [B, D]."""
        return self.text_embedder(tokens.mean(dim=1))

    def forward(self, c_noise: Tensor, pooled: Tensor) -> Tensor:
        """Return [B, D] for c_noise [B] and the part of the tokens."""
        features = timestep_features(c_noise, self.features, self.scale)
        return self.timestep_embedder(features.to(self.timestep_embedder.linear_1.weight.dtype)) + pooled


class RefinerBlock(nn.Module):
    """Refine the condition by itself: self-attention without output projection and a feed-forward layer, both gated.

    Args:
        dim: width.
        heads: attention heads.
        mlp_ratio: width of the feed-forward layer divided by ``dim``.
    """

    def __init__(self, dim: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=1e-7), nn.LayerNorm(dim, eps=1e-7)
        self.attn = _Heads(dim, heads)
        self.ff = FeedForward(dim, int(mlp_ratio * dim), activation="silu")
        self.norm_out = Modulation(dim, 2)

    def attention(self, c: Tensor, table: Tensor) -> Tensor:
        """Return the attention branch before its gate; it does not depend on the noise level."""
        return self.attn.attend(*self.attn.project(_lowered(self.norm1(c)), table))

    def forward(self, c: Tensor, condition: Tensor, table: Tensor, attention: Tensor | None = None) -> Tensor:
        """Return the new tokens [B, M, D]; ``attention`` may have been computed before."""
        gate_attention, gate_feed = self.norm_out(condition)
        c = _gated(c, gate_attention, self.attention(c, table) if attention is None else attention)
        return _gated(c, gate_feed, self.ff(self.norm2(c)))


class _RefinerBlocks(nn.Module):
    def __init__(self, dim: int, heads: int, layers: int, mlp_ratio: float) -> None:
        super().__init__()
        self.refiner_blocks = nn.ModuleList(RefinerBlock(dim, heads, mlp_ratio) for _ in range(layers))


class Refiner(nn.Module):
    """Prepare the condition stream for the noise level at hand.

    Args:
        dim: width.
        heads: attention heads.
        layers: number of blocks.
        mlp_ratio: width of the feed-forward layers divided by ``dim``.
        noise_scale: see `NoiseEmbedding`.
    """

    def __init__(self, dim: int, heads: int, layers: int, mlp_ratio: float, noise_scale: float) -> None:
        super().__init__()
        self.time_text_embed = NoiseEmbedding(dim, noise_scale) if layers else None
        self.proj_in = nn.Linear(dim, dim)
        self.token_refiner = _RefinerBlocks(dim, heads, layers, mlp_ratio)

    @property
    def blocks(self) -> nn.ModuleList:
        """Return the blocks."""
        return self.token_refiner.refiner_blocks

    def prepare(self, c: Tensor, table: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return what does not depend on the noise level: tokens, pooled tokens, attention of the first block."""
        tokens = self.proj_in(c).to(c.dtype)
        if self.time_text_embed is None:
            return tokens, tokens[:, 0], None
        return tokens, self.time_text_embed.pooled(c), cast(RefinerBlock, self.blocks[0]).attention(tokens, table)

    def forward(self, prepared: tuple[Tensor, Tensor, Tensor | None], c_noise: Tensor, table: Tensor) -> Tensor:
        """Return the refined tokens [B, M, D]."""
        tokens, pooled, attention = prepared
        if self.time_text_embed is None:
            return tokens
        condition = self.time_text_embed(c_noise, pooled)
        for block in self.blocks:
            tokens, attention = block(tokens, condition, table, attention), None
        return tokens


class PatchEmbed(nn.Module):
    """Embed patches by a linear layer whose weight has the shape of a convolution (names of the published weights).

    Args:
        channels: C of the fields.
        dim: width of the tokens.
        patch: frames, rows and columns per token.
    """

    def __init__(self, channels: int, dim: int, patch: tuple[int, int, int]) -> None:
        super().__init__()
        self.proj = nn.Conv3d(channels, dim, patch, stride=patch)

    def forward(self, x: Tensor) -> Tensor:
        """Turn [B, C, T, H, W] into tokens [B, T/f H/p W/p, D] in the dtype of the parameters."""
        f, p, q = self.proj.kernel_size
        patches = rearrange(x, "b c (t f) (h p) (w q) -> b (t h w) (c f p q)", f=f, p=p, q=q)
        return F.linear(patches, self.proj.weight.flatten(1), self.proj.bias).to(self.proj.weight.dtype)


class FinalModulation(nn.Module):
    """Modulate before the output; the order is scale, shift.

    Args:
        dim: width.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, 2 * dim)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Return the normalised and modulated tokens [B, N, D] for the condition [B, D]."""
        scale, shift = self.linear(F.silu(condition))[:, None].chunk(2, dim=-1)
        return modulate(x, shift, scale, eps=1e-7)


class SeasonMLP(nn.Module):
    """Turn calendar features into a scale and a shift of the condition vector.

    Args:
        features: number of features.
        dim: width of the condition vector.
    """

    def __init__(self, features: int, dim: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(features, 2 * dim)
        self.linear_2 = nn.Linear(2 * dim, 2 * dim)

    def forward(self, features: Tensor) -> Tensor:
        """Return [B, 2 dim], scale first, from [B, features]."""
        return self.linear_2(F.silu(self.linear_1(features.to(self.linear_1.weight.dtype))))


def _modulation(dim: int, parts: int, shared: bool) -> Modulation | SharedModulation:
    return SharedModulation(dim, parts) if shared else Modulation(dim, parts)


def _project(
    x: Tensor,
    linears: tuple[nn.Linear, nn.Linear, nn.Linear],
    norms: tuple[RMSNorm, RMSNorm],
    heads: int,
    table: Tensor | None,
    count: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    x = _lowered(x)
    given = zip(linears, (x[:, :count], x, x), strict=True)
    q, k, v = (linear(part).unflatten(-1, (heads, -1)) for linear, part in given)
    q, k = norms[0](q), norms[1](k)
    if table is not None:
        q, k = rotate(q, table[:count]), rotate(k, table)
    return q.to(v.dtype), k.to(v.dtype), v


def _gated(x: Tensor, gate: Tensor, branch: Tensor) -> Tensor:
    """Return x + gate branch in the dtype of x, the residual stream."""
    return torch.addcmul(x, gate.to(x.dtype), branch.to(x.dtype))


def _lowered(x: Tensor) -> Tensor:
    """Cast once to autocast's dtype where autocast is on: several layers that read ``x`` would each cast it."""
    device = x.device.type
    return x.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else x
