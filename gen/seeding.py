"""Give noise an address: the same numbers whatever the batch, order, process, device or restart.

An address (seed, member, valid time, stream, block) is hashed to the 128-bit key of a Philox-4x64 counter generator
(Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"); its raw 64-bit words become uniforms and, by the
Box-Muller transform in float64, unit normals,

    z_{2k}   = sqrt(-2 ln u_{2k}) cos(2 pi u_{2k+1}),
    z_{2k+1} = sqrt(-2 ln u_{2k}) sin(2 pi u_{2k+1}),      u_{2k} in (0, 1], u_{2k+1} in [0, 1).

The raw words are an exact function of the key; numpy's own normal generator is avoided because its algorithm may
change between versions. Logarithm and cosine may differ in the last float64 bit between mathematical libraries, which
the rounding to float32 hides except about once in 1e8 numbers.
"""

from __future__ import annotations

import hashlib
import json
import operator
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

__all__ = ["Address", "normal", "step_generator", "derive_seed"]

_VERSION = 1  # part of every hash: a change of the algorithm changes this number, and so all noise


@dataclass(frozen=True)
class Address:
    """Name one block of noise.

    Args:
        seed: run seed, >= 0.
        member: ensemble member, >= 0.
        time: valid time in hours since 1970-01-01T00 (negative before).
        stream: purpose of the noise; two purposes never share numbers.
        block: further integer coordinates (sampler step, tile row and column, ...).

    Raises:
        ValueError: if the seed or the member is negative, or the stream is empty.
    """

    seed: int
    member: int
    time: int
    stream: str = "diffusion"
    block: tuple[int, ...] = field(default=())

    def __post_init__(self) -> None:
        for name in ("seed", "member", "time"):  # numpy integers become plain ones, so that the text is canonical
            object.__setattr__(self, name, operator.index(getattr(self, name)))
        object.__setattr__(self, "block", tuple(operator.index(b) for b in self.block))
        if self.seed < 0 or self.member < 0:
            raise ValueError(f"seed and member must be >= 0; got seed {self.seed}, member {self.member}")
        if not self.stream:
            raise ValueError("stream must not be empty; name the purpose of the noise, for example 'diffusion'")

    def key(self) -> tuple[int, int]:
        """Return the Philox key: the first 128 bits of the SHA-256 of the address, as two little-endian words."""
        digest = _digest("noise", self.stream, self.seed, self.member, self.time, list(self.block))
        return int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:16], "little")


def normal(shape: Sequence[int], address: Address) -> torch.Tensor:
    """Draw unit normals at an address.

    The numbers fill the shape in C order and do not depend on it: a shorter draw is the beginning of a longer one.

    Args:
        shape: sizes of the result, each >= 0.
        address: the address of the block.

    Returns:
        float32 tensor on the CPU.

    Raises:
        ValueError: if a size is negative.
    """
    sizes = tuple(operator.index(n) for n in shape)
    if any(n < 0 for n in sizes):
        raise ValueError(f"sizes must be >= 0; got {sizes}")
    count = int(np.prod(sizes, dtype=np.int64))
    pairs = (count + 1) // 2
    bits = np.random.Philox(key=np.array(address.key(), dtype=np.uint64))
    words = bits.random_raw(2 * pairs).reshape(pairs, 2) >> np.uint64(11)  # 53 bits, the float64 mantissa
    radius = np.sqrt(-2.0 * np.log((words[:, 0].astype(np.float64) + 1.0) * 2.0**-53))
    angle = words[:, 1].astype(np.float64) * (2.0 * np.pi * 2.0**-53)
    values = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).reshape(-1)[:count]
    return torch.from_numpy(values.astype(np.float32)).reshape(sizes)


def derive_seed(*parts: int | str) -> int:
    """Hash a list of names and numbers to a seed in [0, 2**63)."""
    return int.from_bytes(_digest("seed", *parts)[:8], "little") >> 1


def step_generator(seed: int, rank: int, samples_seen: int) -> torch.Generator:
    """Return the generator of one training step: a function of run seed, process and samples seen, of nothing else.

    Args:
        seed: run seed.
        rank: index of the process.
        samples_seen: samples used by all processes together before this step.

    Returns:
        CPU generator; draw with it on the CPU and move the numbers to the device.
    """
    generator = torch.Generator()
    generator.manual_seed(derive_seed("step", seed, rank, samples_seen))
    return generator


def _digest(*parts: object) -> bytes:
    text = json.dumps(["gen", _VERSION, *parts], separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode("ascii")).digest()
