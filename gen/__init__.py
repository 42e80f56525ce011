"""Generative models of the Earth; this package holds what no single task owns.

Importing `gen` costs nothing: no torch, no numpy, no side effect.
"""

__all__ = ["__version__"]

__version__ = "0.1.0"
