"""Padding and convolution on a latitude-longitude grid.

Longitude is periodic. Walking over a pole one comes down the opposite meridian: row -1-i is row i, half a turn away,

    x[-1-i, j] = s * x[i, j + W/2],    x[H+i, j] = s * x[H-1-i, j + W/2],    x[i, j + W] = x[i, j],

with s = 1 for scalars and s = -1 for the eastward and northward components of a vector, whose unit vectors both turn
round there. On rows that lie half a spacing off the poles this is the exact continuation of a smooth field.
"""

from __future__ import annotations

__all__ = ["PADDING_MODES", "SphereConv2d", "sphere_pad"]

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

PADDING_MODES = ("sphere", "ladcast", "plane")


def sphere_pad(x: Tensor, padding: int, sign: Tensor | None = None, dtype: torch.dtype | None = None) -> Tensor:
    """Pad fields [B, C, H, W] by `padding` cells on every side, over the poles and round the globe.

    Args:
        x: fields on rows from pole to pole, in either order; W must be even.
        padding: number of rows and columns to add on each side, at most H and W.
        sign: +1 or -1 per channel [C]; -1 for vector components. None means +1.
        dtype: type of the result (the cast costs no extra pass); None keeps that of `x`.

    Returns:
        The padded fields [B, C, H + 2 padding, W + 2 padding], in the memory format of `x`.

    Raises:
        ValueError: if W is odd, or the padding is larger than the grid, or `sign` has another length than C.
    """
    if padding == 0:
        return x if dtype is None else x.to(dtype)
    _check_grid(x, padding)
    if sign is not None and sign.shape != x.shape[1:2]:
        raise ValueError(f"sign must hold one value per channel, {x.shape[1]}; got shape {tuple(sign.shape)}")
    return _SpherePad.apply(x, padding, sign, dtype or x.dtype)


class SphereConv2d(nn.Conv2d):
    """Convolve on the sphere with stride 1, keeping the size of the grid; weights are those of `nn.Conv2d`.

    Args:
        in_channels, out_channels: widths.
        kernel_size: odd.
        bias: whether to add a bias.
        groups: as in `nn.Conv2d`.
        padding_mode: "sphere" (continuation over the poles), "plane" (zeros outside), or "ladcast" (the continuation,
            and in the first and last output row the kernel rows beyond the pole are mirrored in longitude, as in the
            published LaDCast weights; here the gradients of those rows are exact).
        vector_inputs, vector_outputs: indices of channels that are vector components ("sphere" only). Such an input
            changes sign over the pole; so does what such an output reads there.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        bias: bool = True,
        groups: int = 1,
        padding_mode: str = "sphere",
        vector_inputs: Sequence[int] = (),
        vector_outputs: Sequence[int] = (),
    ) -> None:
        if padding_mode not in PADDING_MODES:
            raise ValueError(f"padding_mode must be one of {', '.join(PADDING_MODES)}; got {padding_mode!r}")
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd so that the grid keeps its size; got {kernel_size}")
        super().__init__(in_channels, out_channels, kernel_size, padding=kernel_size // 2, groups=groups, bias=bias)
        self.mode, self.reach = padding_mode, kernel_size // 2
        self.input_sign: Tensor | None
        self.output_vector: Tensor | None
        active = padding_mode == "sphere"
        self.register_buffer("input_sign", _signs(vector_inputs, in_channels, active), persistent=False)
        self.register_buffer("output_vector", _mask(vector_outputs, out_channels, active), persistent=False)

    def forward(self, x: Tensor, outputs: Sequence[int] | None = None) -> Tensor:
        """Convolve [B, Cin, H, W] to [B, Cout, H, W], or to the channels `outputs` alone, in their order."""
        weight, bias, vector = self._selected(outputs)
        if self.mode == "plane" or self.reach == 0:
            return self._conv_forward(x, weight, bias)
        padded = sphere_pad(x, self.reach, self.input_sign, _compute_dtype(x))
        y = F.conv2d(padded, weight, bias, groups=self.groups)
        if self.mode == "ladcast":
            self._mirror_polar_rows(padded, weight, y)
        elif vector is not None:
            self._turn_polar_rows(padded, weight, bias, vector, y)
        return y

    def _selected(self, outputs: Sequence[int] | None) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Return weight, bias and vector mask of the output channels asked for."""
        if outputs is None:
            return self.weight, self.bias, self.output_vector
        if self.groups != 1:
            raise ValueError(f"outputs can be selected where groups is 1; got groups {self.groups}")
        if not outputs or not all(0 <= i < self.out_channels for i in outputs):
            raise ValueError(f"outputs must be channels in [0, {self.out_channels}); got {list(outputs)}")
        bias, vector = (None if part is None else _take(part, outputs) for part in (self.bias, self.output_vector))
        return _take(self.weight, outputs), bias, vector

    def _mirror_polar_rows(self, padded: Tensor, weight: Tensor, y: Tensor) -> None:
        """Mirror the kernel rows beyond the pole in longitude, in the first and the last output row.

        Only these kernel rows change, so that a convolution of the padding with the change of the kernel is added.
        """
        p = self.reach
        near, far = weight[:, :, :p], weight[:, :, -p:]
        y[:, :, :1] += F.conv2d(padded[:, :, :p], near.flip(-1) - near, groups=self.groups)
        y[:, :, -1:] += F.conv2d(padded[:, :, -p:], far.flip(-1) - far, groups=self.groups)

    def _turn_polar_rows(self, padded: Tensor, weight: Tensor, bias: Tensor | None, vector: Tensor, y: Tensor) -> None:
        """Let vector outputs read the other side of the pole with the opposite sign."""
        p, mask = self.reach, vector[:, None, None]
        turn = torch.ones(3 * p, 1, dtype=padded.dtype, device=padded.device)
        turn[:p] = -1
        first = F.conv2d(padded[:, :, : 3 * p] * turn, weight, bias, groups=self.groups)
        last = F.conv2d(padded[:, :, -3 * p :] * turn.flip(0), weight, bias, groups=self.groups)
        y[:, :, :p] = torch.where(mask, first, y[:, :, :p])
        y[:, :, -p:] = torch.where(mask, last, y[:, :, -p:])

    def extra_repr(self) -> str:
        """Describe the layer."""
        return f"{super().extra_repr()}, padding_mode={self.mode}"


class _SpherePad(torch.autograd.Function):
    """Copy once into the padded array and write the border from it; the gradient folds the border back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, p: int, sign: Tensor | None, dtype: torch.dtype) -> Tensor:
        b, c, h, w = x.shape
        ctx.p, ctx.dtype = p, x.dtype
        ctx.save_for_backward(sign)
        out = torch.empty((b, c, h + 2 * p, w + 2 * p), dtype=dtype, device=x.device, memory_format=_format(x))
        core = out[..., p : p + w]
        core[:, :, p : p + h] = x
        _half_turn(core[:, :, p : 2 * p], core[:, :, :p], sign)
        _half_turn(core[:, :, h : h + p], core[:, :, h + p :], sign)
        out[..., :p] = out[..., w : w + p]
        out[..., w + p :] = out[..., p : 2 * p]
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        p = ctx.p
        (sign,) = ctx.saved_tensors
        h, w = grad.shape[-2] - 2 * p, grad.shape[-1] - 2 * p
        inner = torch.empty((*grad.shape[:2], h, w), dtype=ctx.dtype, device=grad.device, memory_format=_format(grad))
        inner.copy_(grad[:, :, p : p + h, p : p + w])
        inner[..., w - p :] += grad[:, :, p : p + h, :p]
        inner[..., :p] += grad[:, :, p : p + h, w + p :]
        inner[:, :, :p] += _fold(grad[:, :, :p], p, sign)
        inner[:, :, h - p :] += _fold(grad[:, :, h + p :], p, sign)
        return inner, None, None, None


def _take(parameter: Tensor, indices: Sequence[int]) -> Tensor:
    """Return rows of a parameter; runs of neighbours are slices, so that no index has to reach an accelerator."""
    starts = [i for i, index in enumerate(indices) if i == 0 or index != indices[i - 1] + 1]
    ends = [*starts[1:], len(indices)]
    runs = [parameter[indices[a] : indices[b - 1] + 1] for a, b in zip(starts, ends, strict=True)]
    return runs[0] if len(runs) == 1 else torch.cat(runs)


def _half_turn(source: Tensor, target: Tensor, sign: Tensor | None) -> None:
    """Write the rows of `source`, mirrored and half a turn on, into `target`."""
    half = source.shape[-1] // 2
    rows = source.flip(-2) if sign is None else source.flip(-2) * sign.to(source.dtype)[:, None, None]
    target[..., :half] = rows[..., half:]
    target[..., half:] = rows[..., :half]


def _fold(border: Tensor, p: int, sign: Tensor | None) -> Tensor:
    """Return the gradient that border rows [B, C, p, W + 2p] send to the rows they were copied from."""
    rows = border[..., p:-p].clone()
    rows[..., -p:] += border[..., :p]
    rows[..., :p] += border[..., -p:]
    rows = rows.flip(-2).roll(rows.shape[-1] // 2, -1)
    return rows if sign is None else rows * sign.to(rows.dtype)[:, None, None]


def _format(x: Tensor) -> torch.memory_format:
    """Return channels_last for arrays (or slices of arrays) whose channels lie next to each other."""
    return torch.channels_last if x.stride(1) == 1 and x.shape[1] > 1 else torch.contiguous_format


def _compute_dtype(x: Tensor) -> torch.dtype:
    """Return the type in which a convolution of `x` will run (autocast does not cast float64)."""
    kind = x.device.type
    if x.dtype != torch.float64 and torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    return x.dtype


def _check_grid(x: Tensor, padding: int) -> None:
    height, width = x.shape[-2:]
    if width % 2:
        raise ValueError(f"half a turn in longitude needs an even number of columns; got {width}: use plane padding")
    if padding > min(height, width):
        raise ValueError(f"padding must not exceed the grid {height} x {width}; got {padding}")


def _mask(indices: Sequence[int], channels: int, active: bool) -> Tensor | None:
    """Return a mask [channels] of `indices`, or None where there is nothing to mark."""
    for index in indices:
        if not 0 <= index < channels:
            raise ValueError(f"vector channel must be in [0, {channels}); got {index}")
    if not (active and indices):
        return None
    mask = torch.zeros(channels, dtype=torch.bool)
    mask[list(indices)] = True
    return mask


def _signs(indices: Sequence[int], channels: int, active: bool) -> Tensor | None:
    mask = _mask(indices, channels, active)
    return None if mask is None else torch.where(mask, -1.0, 1.0)
