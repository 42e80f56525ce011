"""Precipitation downscaling: coarse rain in, an ensemble of fine fields out."""
