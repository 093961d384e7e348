"""TPU pods, asked for and looked after from a laptop."""
