"""Attention backends against the definition, evaluated in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from gen.nn import attention
from gen.nn.attention import BACKENDS, attend, available_backends, check_backend

CPU_BACKENDS = ("auto", "sdpa", "matmul", "flash")


def tensors(batch: int, rows: int, columns: int, dim: int, device: str = "cpu") -> list[Tensor]:
    """Return float64 queries, keys, values and output gradients with a small spread of logits."""
    generator = torch.Generator().manual_seed(dim)
    sizes = (rows, columns, columns, rows)
    return [torch.randn(batch, 3, n, dim, dtype=torch.float64, generator=generator).to(device) for n in sizes]


def definition(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Return softmax(q k^T / sqrt(D) + mask) v, written out."""
    logits = torch.einsum("bhnd,bhmd->bhnm", q, k) / math.sqrt(q.shape[-1])
    if mask is not None:
        logits = logits.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else logits + mask
    weights = (logits - logits.amax(-1, keepdim=True)).exp()
    return (weights / weights.sum(-1, keepdim=True)) @ v


def masks(rows: int, columns: int) -> dict[str, Tensor | None]:
    """Return no mask, a mask of three packed sequences and an additive bias."""
    group = torch.arange(columns) * 3 // columns
    packed = (torch.arange(rows) * 3 // rows)[:, None] == group[None]
    bias = torch.randn(rows, columns, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return {"none": None, "packed": packed, "bias": bias}


def with_gradients(call, q: Tensor, k: Tensor, v: Tensor, g: Tensor, mask: Tensor | None) -> list[Tensor]:
    """Return output and gradients, all in float64."""
    inputs = [t.detach().clone().requires_grad_() for t in (q, k, v)]
    out = call(*inputs, mask)
    gradients = torch.autograd.grad(out, inputs, g.to(out.dtype))
    return [t.detach().double() for t in (out, *gradients)]


@pytest.mark.parametrize("kind", ["none", "packed", "bias"])
@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_backends_equal_the_definition(backend: str, kind: str) -> None:
    """Output and gradients equal the written-out softmax in float64; sums of 50 terms: 1e-12."""
    q, k, v, g = tensors(2, 30, 50, 16)
    mask = masks(30, 50)[kind]
    expected = with_gradients(definition, q, k, v, g, mask)
    actual = with_gradients(lambda *a: attend(*a, backend=backend), q, k, v, g, mask)
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dim", [64, 128])
@pytest.mark.parametrize("kind", ["none", "packed"])
def test_bfloat16_on_the_cpu_errs_no_more_than_twice_a_plain_bfloat16_softmax(kind: str, dim: int) -> None:
    """Core test 14 on the CPU: the largest error against float64 is below twice that of the definition in bfloat16."""
    _agree("auto", "cpu", kind, dim)
    _agree("sdpa", "cpu", kind, dim)


def _agree(backend: str, device: str, kind: str, dim: int) -> None:
    q, k, v, g = (t.bfloat16() for t in tensors(2, 144, 144, dim, device))
    mask = masks(144, 144)[kind]
    mask = None if mask is None else mask.to(device)
    exact = with_gradients(definition, q.double(), k.double(), v.double(), g, mask)
    plain = with_gradients(definition, q, k, v, g, mask)
    actual = with_gradients(lambda *a: attend(*a, backend=backend), q, k, v, g, mask)
    for name, a, p, e in zip(("out", "dq", "dk", "dv"), actual, plain, exact, strict=True):
        assert (a - e).abs().max() < 2 * (p - e).abs().max(), (name, backend)


@pytest.mark.gpu
@pytest.mark.parametrize("dim", [64, 128])
@pytest.mark.parametrize("kind", ["none", "packed"])
@pytest.mark.parametrize("backend", [name for name in BACKENDS if name != "auto"])
def test_backends_agree_on_an_accelerator(backend: str, kind: str, dim: int) -> None:
    """Core test 14: sdpa, flash and xformers, output and gradients, err less than twice a bfloat16 reference."""
    if backend not in available_backends("cuda", torch.bfloat16):
        pytest.skip(f"{backend} does not work on this machine")
    if backend == "flash" and kind != "none":
        with pytest.raises(ValueError, match="takes no mask"):
            _agree(backend, "cuda", kind, dim)
        return
    _agree(backend, "cuda", kind, dim)


def test_a_packed_mask_of_xformers_selects_the_same_sequences_in_sdpa() -> None:
    """A block-diagonal mask, materialised, gives each packed sequence its own attention: 1e-6 in float32."""
    fmha = pytest.importorskip("xformers.ops.fmha", reason="xformers is not installed")
    lengths = [5, 11, 8]
    q, k, v, _ = (t[:1].float() for t in tensors(1, 24, 24, 16))
    bias = fmha.attn_bias.BlockDiagonalMask.from_seqlens(lengths).materialize((24, 24), dtype=torch.float32)
    packed = attend(q, k, v, bias)
    alone = [attend(*(t.split(lengths, dim=2)[i] for t in (q, k, v))) for i in range(3)]
    torch.testing.assert_close(packed, torch.cat(alone, dim=2), rtol=0, atol=1e-6)


def test_packed_sequences_do_not_see_each_other() -> None:
    """With a block-diagonal mask the result equals each sequence alone, on which packing rests; 1e-13 in float64."""
    lengths = [5, 11, 8]
    q, k, v, _ = tensors(2, 24, 24, 16)
    mask = torch.block_diag(*(torch.ones(n, n) for n in lengths)).bool()
    alone = [attend(*(t.split(lengths, dim=2)[i] for t in (q, k, v))) for i in range(3)]
    torch.testing.assert_close(attend(q, k, v, mask), torch.cat(alone, dim=2), rtol=0, atol=1e-13)


def test_a_row_of_one_key_returns_its_value() -> None:
    """softmax over one key is 1 whatever the query, so the output is the value, exactly."""
    q, k, v, _ = tensors(2, 4, 1, 8)
    for backend in CPU_BACKENDS:
        assert torch.equal(attend(q, k, v, backend=backend), v.expand(-1, -1, 4, -1))


def test_an_unknown_or_missing_backend_is_one_clear_error() -> None:
    """The near miss is named; a backend that cannot work says why and what to use."""
    q, k, v, _ = tensors(1, 4, 4, 8)
    with pytest.raises(ValueError, match="did you mean 'sdpa'"):
        attend(q, k, v, backend="spda")
    with pytest.raises(ValueError, match="xformers.*use 'sdpa'"):
        check_backend("xformers", "cpu")


def test_backends_on_the_cpu_are_found_by_a_probe() -> None:
    """The CPU offers PyTorch's own kernels and never xformers, which has none for it."""
    names = available_backends("cpu")
    assert {"sdpa", "matmul"} <= set(names)
    assert "xformers" not in names
    assert "auto" not in names


@torch.no_grad()
def test_many_scores_in_bfloat16_are_computed_head_by_head(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where all scores are too many and those of one head are not, the result is that of all heads together: the same
    products, so at most one rounding apart (2^-8)."""
    q, k, v, _ = (t.bfloat16() for t in tensors(2, 30, 50, 16))
    together = attend(q, k, v)
    seen: list[torch.Size] = []
    product = attention._matmul
    monkeypatch.setattr(attention, "_matmul", lambda *a: seen.append(a[0].shape) or product(*a))
    monkeypatch.setattr(attention, "MAX_SCORES", 30 * 50)
    alone = attend(q, k, v)
    assert seen == [(1, 1, 30, 16)] * 6
    assert alone.shape == together.shape and (alone - together).abs().max() <= 2.0**-8 * together.abs().max()
    monkeypatch.setattr(attention, "MAX_SCORES", 30 * 50 - 1)
    attend(q, k, v)
    assert len(seen) == 6
