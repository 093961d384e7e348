"""Launch training on TPU pods, and watch over it, from a laptop."""
