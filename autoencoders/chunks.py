"""Index a chunked array on disk like a tensor, keeping the chunks that were used last."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

__all__ = ["ChunkedTensor"]

import numpy as np
import torch
from torch import Tensor

KEPT_BYTES = 256 << 20


class ChunkedTensor:
    """Rows [first, stop) of a Zarr array, read when they are asked for.

    Args:
        array: Zarr array, chunked along its first axis only.
        first, stop: the rows to show.
        kept_bytes: how much of what was read stays in memory.
    """

    def __init__(self, array: Any, first: int, stop: int, kept_bytes: int = KEPT_BYTES) -> None:
        self.array, self.first, self.stop = array, first, stop
        self.chunk = int(array.chunks[0])
        size = self.chunk * int(np.prod(array.shape[1:])) * array.dtype.itemsize
        self._most = max(1, kept_bytes // size)
        self._kept: OrderedDict[int, Tensor] = OrderedDict()

    @property
    def shape(self) -> torch.Size:
        """Return the shape of the rows shown."""
        return torch.Size((self.stop - self.first, *self.array.shape[1:]))

    def __len__(self) -> int:
        return self.stop - self.first

    def __getitem__(self, index: Tensor | np.ndarray | slice | int) -> Tensor:
        """Return the rows of an index tensor of any shape, an index array, a slice or a number."""
        picked = np.arange(len(self))[index.numpy() if isinstance(index, Tensor) else index]
        rows = np.asarray(picked).reshape(-1) + self.first
        out = torch.empty((len(rows), *self.array.shape[1:]), dtype=torch.float16)
        for number in np.unique(rows // self.chunk):
            here = rows // self.chunk == number
            out[torch.from_numpy(here)] = self._read(int(number))[torch.from_numpy(rows[here] % self.chunk)]
        return out.reshape(*np.shape(picked), *self.array.shape[1:])

    def _read(self, number: int) -> Tensor:
        """Return a chunk, from memory if it was used lately."""
        if number not in self._kept:
            block = np.asarray(self.array[number * self.chunk : (number + 1) * self.chunk])
            self._kept[number] = torch.from_numpy(block)
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)
        self._kept.move_to_end(number)
        return self._kept[number]
