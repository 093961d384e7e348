"""TPU pods: what they are, what a step would cost on one, how to launch."""
