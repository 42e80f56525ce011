"""Scores of forecasts: area means that stream and merge, intervals that are paired, spectra on the sphere."""
