"""A cache of arrays with a limit in bytes; the least recently used go first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable

__all__ = ["ArrayCache"]

import numpy as np


class ArrayCache:
    """Keep the arrays that were used last, `limit` bytes at most (a single larger one is kept until the next)."""

    def __init__(self, limit: int) -> None:
        """Start empty."""
        self.limit, self.nbytes = limit, 0
        self._arrays: OrderedDict[Hashable, np.ndarray] = OrderedDict()

    def get(self, key: Hashable, load: Callable[[], np.ndarray]) -> np.ndarray:
        """Return the array of `key`, made by `load` when it is not here."""
        if key in self._arrays:
            self._arrays.move_to_end(key)
            return self._arrays[key]
        array = load()
        self._arrays[key] = array
        self.nbytes += array.nbytes
        while self.nbytes > self.limit and len(self._arrays) > 1:
            self.nbytes -= self._arrays.popitem(last=False)[1].nbytes
        return array
