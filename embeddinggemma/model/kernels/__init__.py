"""Pallas kernels of a layer on a TPU, and who is chosen to compute what."""
