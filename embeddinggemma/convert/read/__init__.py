"""Public weights in: each family, checked before a tensor is read."""
