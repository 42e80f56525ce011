r"""A plain statement of LaDCast's two networks (arXiv 2506.09193), against which `ladcast_engine.py` times ours.

Functions of a dictionary of weights with the published names, written down as the architecture is told: one projection
per query, key and value; rotary tables, features of the date and of the noise level and the embedding of the known
frame made anew at every call; rotary angles applied with sines and cosines; padding over the poles by concatenation;
the polar rows of a convolution by two further convolutions; nothing kept, nothing written in place, float32 arithmetic.
"""

from __future__ import annotations

__all__ = ["plain_decode", "plain_encode", "plain_transformer"]

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from diffusion.location import ladcast_year_features

Weights = Mapping[str, Tensor]


class Part:
    """Read weights below one name."""

    def __init__(self, weights: Weights, prefix: str = "") -> None:
        self.weights, self.prefix = weights, prefix

    def at(self, name: object) -> Part:
        return Part(self.weights, f"{self.prefix}{name}.")

    def get(self, name: str) -> Tensor | None:
        return self.weights.get(self.prefix + name)

    def linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.weights[f"{self.prefix}{name}.weight"], self.get(f"{name}.bias"))

    def count(self, name: str) -> int:
        """Return the length of a list of blocks."""
        start = len(self.prefix + name) + 1
        named = {key[start:].split(".")[0] for key in self.weights if key.startswith(f"{self.prefix}{name}.")}
        return len(named)

    def mlp(self, first: str, second: str, x: Tensor) -> Tensor:
        return self.linear(second, F.silu(self.linear(first, x)))

    def feed(self, name: str, x: Tensor, activation: Any) -> Tensor:
        return self.linear(f"{name}.net.2", activation(self.linear(f"{name}.net.0.proj", x)))


def plain_transformer(
    weights: Weights, x: Tensor, c_noise: Tensor, cond: Tensor, hours: Tensor, heads: int, axes: tuple[int, int, int]
) -> Tensor:
    """Evaluate the published transformer.

    Args:
        weights: state of the network.
        x: [B, C, T, H, W].
        c_noise: [B].
        cond: [B, C, Tc, H, W].
        hours: int64 [B], hours since 1970-01-01.
        heads: attention heads.
        axes: channels of a head for time, latitude and longitude.
    """
    net, known = Part(weights), cond.shape[2]
    tokens, c = _embed(net, "x_embedder", x), _embed(net, "context_embedder", cond)
    target_table = _table(torch.arange(1, x.shape[2] + 1, device=x.device), x.shape[-2:], axes)
    context_table = _table(torch.arange(1 - known, 1, device=x.device), x.shape[-2:], axes)
    c = _refine(net.at("context_refiner"), c, c_noise, context_table, heads)
    condition = _noise_embedding(net.at("time_text_embed"), c_noise, c)
    scale, shift = net.at("time_elapsed_embed").mlp("linear_1", "linear_2", ladcast_year_features(hours)).chunk(2, -1)
    condition = condition * (1 + scale) + shift
    for i in range(net.count("transformer_blocks")):
        tokens, c = _dual(net.at(f"transformer_blocks.{i}"), tokens, c, condition, target_table, heads)
    both = tuple(torch.cat(pair) for pair in zip(target_table, context_table, strict=True))
    joined = torch.cat([tokens, c], dim=1)
    for i in range(net.count("single_transformer_blocks")):
        joined = _single(net.at(f"single_transformer_blocks.{i}"), joined, condition, both, heads)
    tokens = joined[:, : tokens.shape[1]]
    scale, shift = net.linear("norm_out.linear", F.silu(condition))[:, None].chunk(2, -1)
    tokens = _layer_norm(tokens, 1e-7) * (1 + scale) + shift
    return net.linear("proj_out", tokens).transpose(1, 2).unflatten(2, x.shape[2:])


def _embed(net: Part, name: str, x: Tensor) -> Tensor:
    part = net.at(f"{name}.proj")
    return F.conv3d(x, part.weights[part.prefix + "weight"], part.get("bias")).flatten(2).transpose(1, 2)


def _refine(net: Part, c: Tensor, c_noise: Tensor, table: tuple[Tensor, Tensor], heads: int) -> Tensor:
    condition = F.silu(_noise_embedding(net.at("time_text_embed"), c_noise, c))
    h, blocks = net.linear("proj_in", c), net.at("token_refiner")
    for i in range(blocks.count("refiner_blocks")):
        block = blocks.at(f"refiner_blocks.{i}")
        first, second = block.linear("norm_out.linear", condition)[:, None].chunk(2, -1)
        q, k, v = _heads(block.at("attn"), _affine_norm(block, "norm1", h), heads, table)
        h = h + _attention(q, k, v) * first
        h = h + block.feed("ff", _affine_norm(block, "norm2", h), F.silu) * second
    return h


def _dual(block: Part, x: Tensor, c: Tensor, condition: Tensor, table: Any, heads: int) -> tuple[Tensor, Tensor]:
    condition, attn, count = F.silu(condition), block.at("attn"), x.shape[1]
    of_x = block.linear("norm1.linear", condition)[:, None].chunk(6, -1)
    of_c = block.linear("norm1_context.linear", condition)[:, None].chunk(6, -1)
    normal_x = _layer_norm(x, 1e-6) * (1 + of_x[1]) + of_x[0]
    normal_c = _layer_norm(c, 1e-6) * (1 + of_c[1]) + of_c[0]
    pairs = zip(
        _heads(attn, normal_x, heads, table),
        _heads(attn, normal_c, heads, None, ("add_q_proj", "add_k_proj", "add_v_proj"), "norm_added_"),
        strict=True,
    )
    out = _attention(*(torch.cat(pair, dim=2) for pair in pairs))
    streams = []
    for name, feed, stream, part, given in (
        ("to_out.0", "ff", x, out[:, :count], of_x),
        ("to_add_out", "ff_context", c, out[:, count:], of_c),
    ):
        stream = stream + given[2] * attn.linear(name, part)
        normal = _layer_norm(stream, 1e-7) * (1 + given[4]) + given[3]
        streams.append(stream + given[5] * block.feed(feed, normal, _gelu))
    return streams[0], streams[1]


def _single(block: Part, x: Tensor, condition: Tensor, table: Any, heads: int) -> Tensor:
    shift, scale, gate = block.linear("norm.linear", F.silu(condition))[:, None].chunk(3, -1)
    normal = _layer_norm(x, 1e-6) * (1 + scale) + shift
    hidden = _gelu(block.linear("proj_mlp", normal))
    attention = _attention(*_heads(block.at("attn"), normal, heads, table))
    return x + gate * block.linear("proj_out", torch.cat([attention, hidden], dim=-1))


def _heads(
    attn: Part, x: Tensor, heads: int, table: Any, names: Any = ("to_q", "to_k", "to_v"), norm: str = "norm_"
) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = (attn.linear(name, x).unflatten(-1, (heads, -1)).transpose(1, 2) for name in names)
    q, k = (_rms(t, attn.weights[f"{attn.prefix}{norm}{s}.weight"]) for t, s in ((q, "q"), (k, "k")))
    return (q, k, v) if table is None else (_rotated(q, table), _rotated(k, table), v)


def _attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def _rms(x: Tensor, weight: Tensor) -> Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-7) * weight


def _rotated(x: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    return x * table[0] + torch.stack([-odd, even], dim=-1).flatten(3) * table[1]


def _table(steps: Tensor, grid: tuple[int, int], axes: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    """Return cosine and sine [T H W, sum of axes] of the paper's angles."""
    rows, columns = grid
    wide: Any = {"dtype": torch.float64, "device": steps.device}
    half = 0.5 * 180 / rows  # the southernmost row of the fine grid is missing: centres lie 0.75 degrees further north
    lat = torch.linspace(math.radians(6 * (half - 89.25)), math.radians(6 * (90.75 - half)), rows, **wide)
    lon = torch.arange(columns, **wide) * math.radians(360 / columns)
    lon = lon + math.radians(0.5 * 360 / columns - 0.75)
    positions = torch.meshgrid(steps.double(), lat, lon, indexing="ij")
    angles = []
    for position, dim in zip(positions, axes, strict=True):
        frequency = 256.0 ** (-torch.arange(0, dim, 2, **wide) / dim)
        angles.append((position.flatten()[:, None] * frequency).repeat_interleave(2, dim=1))
    joined = torch.cat(angles, dim=1)
    return joined.cos().float(), joined.sin().float()


def _noise_embedding(part: Part, c_noise: Tensor, tokens: Tensor) -> Tensor:
    wave = torch.exp(-math.log(10000.0) * torch.arange(128, device=c_noise.device) / 128)
    angles = c_noise[:, None] * wave
    noise = part.at("timestep_embedder").mlp("linear_1", "linear_2", torch.cat([angles.cos(), angles.sin()], dim=-1))
    return noise + part.at("text_embedder").mlp("linear_1", "linear_2", tokens.mean(dim=1))


def _layer_norm(x: Tensor, eps: float) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=eps)


def _affine_norm(part: Part, name: str, x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], part.get(f"{name}.weight"), part.get(f"{name}.bias"), eps=1e-7)


def _gelu(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


def plain_encode(weights: Weights, x: Tensor, static: Tensor, head_dim: int = 32) -> Tensor:
    """Return the latent of fields [B, C, H, W] and static fields [S, H, W]."""
    net = Part(weights, "encoder.")
    x = _sphere_conv(net, "conv_in", torch.cat([x, static.expand(len(x), -1, -1, -1)], dim=1))
    for i in range(net.count("down_blocks")):
        x = _block(net.at(f"down_blocks.{i}"), x, head_dim)
    z = _sphere_conv(net, "conv_out", x)
    return z + x.unflatten(1, (z.shape[1], -1)).mean(2)


def plain_decode(weights: Weights, z: Tensor, head_dim: int = 32) -> Tensor:
    """Return all fields of latents [B, Cz, h, w], the static ones last."""
    net = Part(weights, "decoder.")
    x = _sphere_conv(net, "conv_in", z)
    x = x + z.repeat_interleave(x.shape[1] // z.shape[1], dim=1)
    for i in range(net.count("up_blocks")):
        x = _block(net.at(f"up_blocks.{i}"), x, head_dim, up=True)
    return _sphere_conv(net, "conv_out", F.relu(_channel_norm(net, "norm_out", x, 1e-7)))


def _block(part: Part, x: Tensor, head_dim: int, up: bool = False) -> Tensor:
    if part.get("conv1.weight") is not None:
        return x + _channel_norm(
            part, "norm", _sphere_conv(part, "conv2", F.silu(_sphere_conv(part, "conv1", x))), 1e-5
        )
    if part.get("conv.weight") is not None:
        return _up(part, x) if up else _down(part, x)
    x = x + _multiscale(part.at("attn"), x, head_dim)
    return x + _gated_conv(part.at("conv_out"), x)


def _down(part: Part, x: Tensor) -> Tensor:
    y, short = F.pixel_unshuffle(_sphere_conv(part, "conv", x), 2), F.pixel_unshuffle(x, 2)
    return y + short.unflatten(1, (y.shape[1], -1)).mean(2)


def _up(part: Part, x: Tensor) -> Tensor:
    y = _sphere_conv(part, "conv", x)
    return F.pixel_shuffle(y, 2) + F.pixel_shuffle(x.repeat_interleave(y.shape[1] // x.shape[1], dim=1), 2)


def _multiscale(part: Part, x: Tensor, head_dim: int) -> Tensor:
    tokens = x.movedim(1, -1)
    qkv = torch.cat([part.linear(name, tokens) for name in ("to_q", "to_k", "to_v")], dim=-1).movedim(-1, 1)
    scales = [qkv]
    for i in range(part.count("to_qkv_multiscale")):
        scale = part.at(f"to_qkv_multiscale.{i}")
        filtered = _sphere_conv(scale, "proj_in", qkv)
        mix = scale.weights[scale.prefix + "proj_out.weight"]
        scales.append(F.conv2d(filtered, mix, groups=len(mix) // head_dim))
    q, k, v = torch.cat(scales, dim=1).flatten(2).unflatten(1, (-1, 3, head_dim)).unbind(2)
    q, k, v = F.relu(q), F.relu(k), F.pad(v, (0, 0, 0, 1), value=1.0)
    out = (v @ k.mT) @ q
    out = (out[:, :, :-1] / (out[:, :, -1:] + 1e-15)).flatten(1, 2).unflatten(-1, x.shape[-2:])
    return _channel_norm(part, "norm_out", part.linear("to_out", out.movedim(1, -1)).movedim(-1, 1), 1e-5)


def _gated_conv(part: Part, x: Tensor) -> Tensor:
    x = F.silu(F.conv2d(x, part.weights[part.prefix + "conv_inverted.weight"], part.get("conv_inverted.bias")))
    value, gate = _sphere_conv(part, "conv_depth", x).chunk(2, dim=1)
    return _channel_norm(
        part, "norm", F.conv2d(value * F.silu(gate), part.weights[part.prefix + "conv_point.weight"]), 1e-7
    )


def _channel_norm(part: Part, name: str, x: Tensor, eps: float) -> Tensor:
    weight, bias = (part.weights[f"{part.prefix}{name}.{kind}"][:, None, None] for kind in ("weight", "bias"))
    return x * torch.rsqrt(x.pow(2).mean(1, keepdim=True) + eps) * weight + bias


def _sphere_conv(part: Part, name: str, x: Tensor) -> Tensor:
    """Pad by concatenation; recompute the polar rows with the kernel rows beyond the pole mirrored."""
    weight, bias = part.weights[f"{part.prefix}{name}.weight"], part.get(f"{name}.bias")
    size, groups = weight.shape[-1], x.shape[1] // weight.shape[1]
    p, half = size // 2, x.shape[-1] // 2
    top = x[:, :, :p].roll(half, dims=-1).flip(2)
    bottom = x[:, :, -p:].roll(half, dims=-1).flip(2)
    x = torch.cat([top, x, bottom], dim=2)
    x = torch.cat([x[..., -p:], x, x[..., :p]], dim=3)
    near = torch.cat([weight[:, :, :p].flip(-1), weight[:, :, p:]], dim=2)
    far = torch.cat([weight[:, :, :-p], weight[:, :, -p:].flip(-1)], dim=2)
    first = F.conv2d(x[:, :, :size], near, bias, groups=groups)
    last = F.conv2d(x[:, :, -size:], far, bias, groups=groups)
    inner = F.conv2d(x[:, :, 1:-1], weight, bias, groups=groups)
    return torch.cat([first, inner, last], dim=2)
