"""Pallas TPU kernels for parts of a layer, and when each is used."""
