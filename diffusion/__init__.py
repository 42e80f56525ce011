"""Generative dynamics: schedule, denoiser, sampler, and the networks that they drive."""
