"""Codecs: physical fields to compact latents and back. Stands on `gen` alone."""
