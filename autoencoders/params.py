"""What to train a weather codec on, and how: the parameters of `autoencoders.recipe.CodecRecipe`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

__all__ = ["CodecParams"]

LOSSES = ("persistence", "relative_l2")


@dataclass
class CodecParams:
    """What to train on and what to train.

    Args:
        data: Zarr store: a simulated world, or any that `gen.data.windows.open_world` reads (ERA5).
        every: use only times whose hour is a multiple of it; None takes every time of the store.
        grid: rows and columns of `data`, for `gen info --config` where the data are not there; checked where they are.
        upper: variables on pressure levels; `levels`: those levels in hPa; `surface`: surface variables.
        log1p: scale per variable that is stored as log(1 + x / scale) (precipitation).
        train, valid: half-open calendar intervals [begin, end).
        static: static fields given to the encoder.
        static_source: where they are, if not in `data` (see `gen.data.statics.load_static`).
        normalizer: "fit" measures it on the training interval; else a JSON file or `package:file` that holds one, see
            `autoencoders.source.load_normalizer`.
        anomalies: give the autoencoder departures from the mean field in units of their standard deviation.
        south_pole: False leaves out the row at the South Pole, as published LaDCast weights do.
        missing: by channel code, the normalised value that stands for NaN (sea-surface temperature over land); such
            places have no loss.
        dcae: further arguments of `autoencoders.dcae.DCAE` (widths, layers, latent channels).
        principal: correct principal components of patches (`autoencoders.principal`) instead of a network alone.
        context: with `principal`, a patch is drawn from the latents of `context` x `context` patches (odd).
        loss: "persistence" (squared error in units of the 6 h persistence error) or "relative_l2" (norm of the error
            over norm of the field, per sample and channel; Li et al. 2021, arXiv 2010.08895).
        latitude_weights: weigh the norms of "relative_l2" by cell area; "persistence" always does.
        reconstruct_static: let the decoder's static channels count in "relative_l2", too.
        roll: turn every sample by a random longitude. The sphere allows it; a turn in latitude it does not.
        latent_noise: standard deviation of the noise on the latents while training, relative to unit variance.
        latent_penalty: weight of the squared latents.
        latent_spread: standard deviation with which latents leave the exported codec.
        start_from: folder of a codec whose weights, normalisation and anomalies training starts from.
        freeze: parts of the autoencoder that stay as they are, for example [encoder].
        checkpointing: recompute blocks in the backward pass: less memory for a third more work.
        states: how many states the normalisation and the validation use; they are held in memory.
    """

    data: str = ""
    every: int | None = None
    grid: list[int] = field(default_factory=list)
    upper: list[str] = field(default_factory=list)
    levels: list[int] = field(default_factory=list)
    surface: list[str] = field(default_factory=list)
    log1p: dict[str, float] = field(default_factory=dict)
    train: list[str] = field(default_factory=list)
    valid: list[str] = field(default_factory=list)
    static: list[str] = field(default_factory=lambda: ["land_sea_mask", "geopotential_at_surface"])
    static_source: str = ""
    normalizer: str = "fit"
    anomalies: bool = True
    south_pole: bool = True
    missing: dict[str, float] = field(default_factory=dict)
    dcae: dict[str, Any] = field(default_factory=dict)
    principal: bool = True
    context: int = 1
    loss: str = "persistence"
    latitude_weights: bool = True
    reconstruct_static: bool = False
    roll: bool = False
    latent_noise: float = 0.0
    latent_penalty: float = 1e-4
    latent_spread: float = 1.0
    start_from: str = ""
    freeze: list[str] = field(default_factory=list)
    checkpointing: bool = False
    states: int = 400

    def __post_init__(self) -> None:
        """Check the intervals and what excludes each other."""
        for name in ("train", "valid"):
            if len(getattr(self, name)) not in (0, 2):
                raise ValueError(f"{name} must be [begin, end); got {getattr(self, name)}")
        if len(self.grid) not in (0, 2):
            raise ValueError(f"grid must be [rows, columns]; got {self.grid}")
        if self.loss not in LOSSES:
            raise ValueError(f"loss must be one of {', '.join(LOSSES)}; got {self.loss!r}")
        if self.reconstruct_static and (self.principal or self.loss != "relative_l2"):
            raise ValueError("reconstruct_static needs loss: relative_l2 and principal: false")
        if self.normalizer != "fit" and self.log1p:
            raise ValueError(f"log1p belongs to normalizer: fit; {self.normalizer} brings its own transforms")
        if not self.latent_spread > 0:
            raise ValueError(f"latent_spread must be positive; got {self.latent_spread}")
