"""Which rows are computed together: members of all starts fill blocks of one fixed size.

The shape of a batch decides its rounding, so every block has the same number of rows; the last one is padded. A small
ensemble leaves room in its block, which the members of the next start take.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Block", "Part", "Unit", "pack", "rows"]

import torch


@dataclass(frozen=True)
class Part:
    """Some members of one start."""

    init_index: int
    members: slice

    @property
    def size(self) -> int:
        """Return the number of members."""
        return int(self.members.stop - self.members.start)


@dataclass(frozen=True)
class Unit:
    """What is computed together: parts of one start or of several, in the order of the rows."""

    parts: tuple[Part, ...]

    @property
    def size(self) -> int:
        """Return the number of members of all parts."""
        return sum(part.size for part in self.parts)


@dataclass(frozen=True)
class Block:
    """Values [m, L, C, H, W] of one part for the leads `leads`."""

    part: Part
    leads: slice
    values: torch.Tensor


def pack(starts: int, members: int, size: int) -> list[Unit]:
    """Return the units of at most `size` rows that hold every member of every start once, in the order of the file."""
    units = []
    for first in range(0, starts * members, size):
        parts, last = list[Part](), min(first + size, starts * members)
        while first < last:
            init, member = divmod(first, members)
            stop = min(members, member + last - first)
            parts.append(Part(init, slice(member, stop)))
            first += stop - member
        units.append(Unit(tuple(parts)))
    return units


def rows(unit: Unit, size: int) -> list[tuple[int, int]]:
    """Return (start, member) of the `size` rows of a unit; the last one is repeated in rows that nobody asked for."""
    asked = [(part.init_index, m) for part in unit.parts for m in range(part.members.start, part.members.stop)]
    return asked + [asked[-1]] * (size - len(asked))
