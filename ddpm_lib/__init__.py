"""Diffusion models from scratch on Fashion-MNIST: the library beside the notebooks."""

__version__ = "0.1.0"
