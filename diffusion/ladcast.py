"""Published LaDCast weights (arXiv 2506.09193): their configuration in the words of `DualStreamTransformer`."""

from __future__ import annotations

__all__ = ["ladcast_config"]

from collections.abc import Mapping
from typing import Any

import numpy as np

from diffusion.georope import GeoRoPE

_FIXED = {
    "nope": False,
    "scale_attn_by_lat": False,
    "conditioning_tensor_intermediate_proj_dim": None,
    "patch_size_t": 1,
    "qk_norm": "rms_norm",
    "spatial_deg2rad": True,
    "incl_time_elapsed": True,
}
_SAME = (
    "in_channels",
    "out_channels",
    "conditioning_tensor_in_channels",
    "num_attention_heads",
    "attention_head_dim",
    "num_layers",
    "num_single_layers",
    "num_refiner_layers",
    "mlp_ratio",
    "patch_size",
    "rope_theta",
)


def ladcast_config(published: Mapping[str, Any], rows: int = 15, columns: int = 30) -> dict[str, Any]:
    """Translate the configuration of published LaDCast weights into keywords of `DualStreamTransformer`.

    Args:
        published: contents of their ``config.json``.
        rows: latent rows.
        columns: latent columns.

    Returns:
        Keywords with ``design="ladcast"``; parameters then have the published names and shapes.

    Raises:
        ValueError: a switch that no published weights use.
    """
    for key, value in _FIXED.items():
        if published.get(key, value) != value:
            raise ValueError(f"{key} must be {value!r} in a LaDCast network; got {published[key]!r}")
    axes = list(published["rope_axes_dim"])
    if list(published.get("conditioning_tensor_rope_axes_dim", axes)) != axes:
        raise ValueError(f"target and condition must share rope_axes_dim; got {axes} and another for the condition")
    (south, west), (north, east) = published["rope_spatial_grid_start_pos"], published["rope_spatial_grid_end_pos"]
    scale = GeoRoPE().latitude_scale
    return {
        **{name: published[name] for name in _SAME},
        "rope_axes_dim": axes,
        "latitude": (np.linspace(south, north, rows) / scale).tolist(),
        "longitude": np.linspace(west, east, columns).tolist(),
        "location": "none",
        "design": "ladcast",
    }
