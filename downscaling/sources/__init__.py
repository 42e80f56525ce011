"""Readers of precipitation: one module for each family of files, one protocol, rates in mm/h, NaN where missing."""
