"""Folders as upstream saves them, with random weights: made with our networks, named and configured as published."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from autoencoders.dcae import DCAE
from diffusion.dual_stream import DualStreamTransformer
from diffusion.ladcast import ladcast_config
from gen.weights import WEIGHTS

PLAIN = ["ResBlock"] * 4
AUTOENCODER: dict[str, Any] = {  # the published numbers of channels; no blocks between the changes of resolution
    "_class_name": "AutoencoderDC",
    "_diffusers_version": "0.32.1",
    "_name_or_path": "somewhere",
    "in_channels": 89,
    "out_channels": 89,
    "temb_channels": None,
    "latent_channels": 84,
    "attention_head_dim": 32,
    "encoder_block_types": PLAIN,
    "decoder_block_types": PLAIN,
    "encoder_block_out_channels": [21, 84, 84, 84],
    "decoder_block_out_channels": [21, 84, 84, 84],
    "encoder_layers_per_block": [0, 0, 0, 0],
    "decoder_layers_per_block": [0, 0, 0, 0],
    "encoder_qkv_multiscales": [[], [], [], []],
    "decoder_qkv_multiscales": [[], [], [], []],
    "upsample_block_type": "pixel_shuffle",
    "downsample_block_type": "pixel_unshuffle",
    "decoder_norm_types": "rms_norm",
    "decoder_act_fns": "silu",
    "scaling_factor": 1.0,
    "static_channels": 5,
    "_use_default_values": ["scaling_factor"],
}
TRANSFORMER: dict[str, Any] = {
    "_class_name": "LaDCastTransformer3DModel",
    "in_channels": 84,
    "out_channels": 84,
    "num_attention_heads": 1,
    "attention_head_dim": 32,
    "num_layers": 1,
    "num_single_layers": 1,
    "num_refiner_layers": 1,
    "mlp_ratio": 1,
    "patch_size": 1,
    "patch_size_t": 1,
    "qk_norm": "rms_norm",
    "rope_theta": 256.0,
    "rope_axes_dim": [8, 12, 12],
    "rope_spatial_grid_start_pos": [-499.5, 5.25],
    "rope_spatial_grid_end_pos": [508.5, 353.25],
    "spatial_deg2rad": True,
    "conditioning_tensor_in_channels": 84,
    "conditioning_tensor_intermediate_proj_dim": None,
    "conditioning_tensor_rope_axes_dim": [8, 12, 12],
    "incl_time_elapsed": True,
    "nope": False,
    "scale_attn_by_lat": False,
    "decay": 0.9999,  # what diffusers' moving average adds
    "min_decay": 0.0,
    "optimization_step": 80000,
    "update_after_step": 1000,
    "use_ema_warmup": True,
    "inv_gamma": 1.0,
    "power": 0.67,
}


def save_autoencoder(folder: Path, **changes: Any) -> Path:
    """Write an autoencoder folder."""
    config = AUTOENCODER | changes
    torch.manual_seed(0)
    plain = {k: v for k, v in config.items() if not k.startswith("_")}
    return _save(folder, config, DCAE(**plain, padding="ladcast"))


def save_transformer(folder: Path, **changes: Any) -> Path:
    """Write a transformer folder."""
    config = TRANSFORMER | changes
    torch.manual_seed(1)
    return _save(folder, config, DualStreamTransformer(**ladcast_config(config)))


def save_both(root: Path) -> Path:
    """Write both where the hub has them: `V0.1.X/DCAE` and another sub-folder."""
    save_autoencoder(root / "V0.1.X" / "DCAE")
    save_transformer(root / "V0.1.X" / "tiny")
    return root


def _save(folder: Path, config: dict[str, Any], network: torch.nn.Module) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    save_file(network.state_dict(), folder / WEIGHTS, metadata={"format": "pt"})
    return folder
