"""What every codec offers: encode fields to latents, decode latents to fields, and the shape of the latents."""

from __future__ import annotations

__all__ = ["Codec", "LatentSpec"]

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor


@dataclass(frozen=True)
class LatentSpec:
    """Size of a latent state.

    Args:
        channels: latent channels.
        factor: grid cells per latent cell along each side.
        shape: rows and columns of the latent grid.
    """

    channels: int
    factor: int
    shape: tuple[int, int]

    def __post_init__(self) -> None:
        """Check that every number is positive."""
        for name, value in (("channels", self.channels), ("factor", self.factor), ("shape", min(self.shape))):
            if value < 1:
                raise ValueError(f"{name} of a latent must be at least 1; got {value}")

    @classmethod
    def for_grid(cls, channels: int, factor: int, grid: tuple[int, int]) -> LatentSpec:
        """Return the latent of fields on `grid` (rows, columns); raises ValueError if `factor` does not divide it."""
        rows, columns = grid
        if rows % factor or columns % factor:
            raise ValueError(
                f"the sides of the grid must be divisible by {factor}; got {rows} x {columns}: regrid or crop"
            )
        return cls(channels, factor, (rows // factor, columns // factor))

    @property
    def grid(self) -> tuple[int, int]:
        """Return rows and columns of the fields."""
        return self.shape[0] * self.factor, self.shape[1] * self.factor

    def compression(self, channels: int) -> float:
        """Return how many numbers of a field with `channels` channels one number of the latent stands for."""
        return channels * self.factor**2 / self.channels


@runtime_checkable
class Codec(Protocol):
    """Map fields [B, C, H, W] to latents [B, Cz, H/f, W/f] and back."""

    def encode(self, x: Tensor, static: Tensor | None = None) -> Tensor:
        """Return the latent of fields; `static` [S, H, W] or [B, S, H, W] is context that is not decoded."""
        ...

    def decode(self, z: Tensor) -> Tensor:
        """Return the fields of a latent."""
        ...

    def latent_spec(self, grid: tuple[int, int]) -> LatentSpec:
        """Return the size of the latents of fields on `grid` (rows, columns)."""
        ...
