"""Ensemble forecasting of the global atmosphere in latent space."""
