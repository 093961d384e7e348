"""Readers of public weights: each family is checked before a tensor is read."""
