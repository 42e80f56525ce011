"""Cyclone tracks in ensemble forecasts: detection, tracking, reference tracks, errors and files."""
