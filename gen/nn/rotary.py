r"""Rotary embedding: position enters attention as a rotation of pairs of channels.

    (x_{2j}, x_{2j+1}) -> (x_{2j} cos a_j - x_{2j+1} sin a_j, x_{2j+1} cos a_j + x_{2j} sin a_j)

so that q.k depends on differences of angles only (Su et al. 2021, "RoFormer", Eq. 15). Read as complex numbers, pair j
is multiplied by e^{i a_j}. Which angle belongs to which place is not decided here, see `diffusion.georope`.
"""

from __future__ import annotations

__all__ = ["apply_rotary", "rotary_table", "rotate"]

import torch
from torch import Tensor


def rotary_table(angles: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return cosine and sine of angles in radians.

    Args:
        angles: any shape; float64 keeps large angles exact.
        dtype: float32 or float64.

    Returns:
        [..., 2], cosine first.
    """
    return torch.stack([angles.cos().to(dtype), angles.sin().to(dtype)], dim=-1)


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Rotate neighbouring pairs of channels, in float32 or in float64 when ``x`` or the table is.

    One product of complex numbers; the compiler, which has none, is shown the same in real ones.

    Args:
        x: [..., D], D even.
        table: cosine and sine, broadcastable to [..., D/2, 2].

    Returns:
        [..., D] in float32 or float64.
    """
    pairs = x.to(torch.promote_types(x.dtype, torch.float32)).unflatten(-1, (-1, 2))
    if not torch.compiler.is_compiling():
        return torch.view_as_real(torch.view_as_complex(pairs) * torch.view_as_complex(table)).flatten(-2)
    (even, odd), (cosine, sine) = pairs.unbind(-1), table.unbind(-1)
    return torch.stack([even * cosine - odd * sine, odd * cosine + even * sine], dim=-1).flatten(-2)


def apply_rotary(x: Tensor, angles: Tensor) -> Tensor:
    """Rotate queries or keys by the angles of their places.

    The rotation is computed in float32, in float64 for float64 input, and returned in the dtype of ``x``.

    Args:
        x: [B, heads, N, D], D even.
        angles: [N, D/2] radians.

    Returns:
        [B, heads, N, D].

    Raises:
        ValueError: the shapes do not fit.
    """
    if x.shape[-1] != 2 * angles.shape[-1] or x.shape[-2] != angles.shape[-2]:
        raise ValueError(f"angles must be [N, D/2] for x [..., N, D]; got {tuple(angles.shape)} for {tuple(x.shape)}")
    dtype = torch.promote_types(x.dtype, torch.float32)
    return rotate(x, rotary_table(angles, dtype)).to(x.dtype)
