r"""Scaled dot-product attention behind one call.

    attend(q, k, v) = softmax(q k^T / sqrt(D) + mask) v            (Vaswani et al. 2017, Eq. 1)

PyTorch's `scaled_dot_product_attention` is the default. A backend is chosen by the caller, never at import; optional
ones are probed with a small call before they are offered. The one case where "auto" is not "sdpa": bfloat16 on the CPU
goes through plain matrix products ("matmul") where the scores are moderately many, head by head where those of one
head are and no gradient is asked for: they are faster there (`benchmarks/transformer.py`).
"""

from __future__ import annotations

__all__ = ["BACKENDS", "attend", "available_backends", "check_backend", "use_backend"]

import difflib
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Kernel = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]

MAX_SCORES = 1 << 25  # "auto" stores at most so many scores, 64 MiB in bfloat16


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, backend: str = "auto") -> Tensor:
    """Compute attention.

    Args:
        q: queries [B, heads, N, D]; any strides with contiguous channels.
        k: keys [B, heads, M, D].
        v: values [B, heads, M, D].
        mask: broadcastable to [B, heads, N, M]; True (take part) and False, or numbers added to the logits.
        backend: "auto", "sdpa", "matmul", "flash" (PyTorch's flash kernel or an error) or "xformers".

    Returns:
        [B, heads, N, D].

    Raises:
        ValueError: an unknown backend, or one that cannot do this on this device.
    """
    return _kernel(backend)(q, k, v, mask)


def available_backends(device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> tuple[str, ...]:
    """Return the backends that work on a device, found by a small call of each.

    Args:
        device: where the tensors will be.
        dtype: of the tensors; bfloat16 on accelerators and float32 on the CPU by default.
    """
    device = torch.device(device)
    dtype = dtype or (torch.float32 if device.type == "cpu" else torch.bfloat16)
    return tuple(name for name in BACKENDS if name != "auto" and _probe(name, str(device), dtype) is None)


def check_backend(backend: str, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> None:
    """Raise a ``ValueError`` that says why when ``backend`` is unknown or does not work on this device."""
    _kernel(backend)
    reason = _probe(backend, str(device), dtype)
    if reason is not None:
        raise ValueError(f"attention backend {backend!r} does not work on {device}: {reason}; use 'sdpa'")


def use_backend(network: nn.Module, backend: str) -> None:
    """Choose the backend of every attention layer of a network: the modules with an attribute `backend`.

    Raises:
        ValueError: the backend is unknown or does not work on the network's device.
    """
    parameter = next(network.parameters())
    check_backend(backend, parameter.device, parameter.dtype)
    for module in network.modules():
        if hasattr(module, "backend"):
            module.backend = backend  # type: ignore[assignment]


def _auto(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    scores = q.shape[2] * k.shape[2]
    if q.device.type != "cpu" or q.dtype != torch.bfloat16 or mask is not None or scores > MAX_SCORES:
        return _sdpa(q, k, v, mask)
    if q.shape[0] * q.shape[1] * scores <= MAX_SCORES:
        return _matmul(q, k, v, mask)
    return _sdpa(q, k, v, mask) if torch.is_grad_enabled() else _by_heads(q, k, v)


def _by_heads(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Compute head by head, so that the scores of one are all that is stored; autograd would keep those of all."""
    parts = [(slice(i, i + 1), slice(j, j + 1)) for i in range(q.shape[0]) for j in range(q.shape[1])]
    heads = [_matmul(q[part], k[part], v[part], None) for part in parts]
    return torch.cat(heads).view(*q.shape[:3], v.shape[3])


def _matmul(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else scores + mask
    return torch.softmax(scores, dim=-1).to(v.dtype) @ v


def _sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def _flash(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    if mask is not None and q.device.type != "cpu":
        raise ValueError(f"attention backend 'flash' takes no mask on {q.device.type}; use 'sdpa'")
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def _xformers(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    try:
        from xformers.ops import memory_efficient_attention
    except ImportError as error:
        raise ValueError("attention backend 'xformers' needs the package: pip install 'gen-earth[xformers]'") from error
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    bias = None if mask is None else _aligned_bias(mask, q, k)
    return memory_efficient_attention(q, k, v, attn_bias=bias).transpose(1, 2)


def _aligned_bias(mask: Tensor, q: Tensor, k: Tensor) -> Tensor:
    """Return an additive mask [B, heads, N, M] whose rows begin at multiples of eight elements, as kernels require."""
    if mask.dtype == torch.bool:
        mask = torch.zeros(mask.shape, dtype=q.dtype, device=q.device).masked_fill_(~mask, float("-inf"))
    batch, rows, heads = q.shape[:3]
    columns = k.shape[1]
    padded = q.new_zeros(batch, heads, rows, -(-columns // 8) * 8)
    padded[..., :columns] = mask.to(q.dtype)
    return padded[..., :columns]


BACKENDS: dict[str, Kernel] = {
    "auto": _auto,
    "sdpa": _sdpa,
    "matmul": _matmul,
    "flash": _flash,
    "xformers": _xformers,
}


def _kernel(backend: str) -> Kernel:
    if backend not in BACKENDS:
        near = "".join(f" - did you mean {n!r}?" for n in difflib.get_close_matches(backend, BACKENDS, n=1))
        raise ValueError(f"unknown attention backend {backend!r}; use one of {', '.join(BACKENDS)}{near}")
    return BACKENDS[backend]


@lru_cache(maxsize=64)
def _probe(backend: str, device: str, dtype: torch.dtype) -> str | None:
    """Return None when a small call with gradients works, else the first line of the reason."""
    try:
        with torch.inference_mode(False), torch.enable_grad():
            q = torch.ones(1, 1, 8, 64, device=device, dtype=dtype, requires_grad=True)
            BACKENDS[backend](q, q, q, None).sum().backward()
    except (RuntimeError, ValueError, NotImplementedError, ImportError, OSError) as error:
        return (str(error).splitlines() or [type(error).__name__])[0].strip()
    return None
