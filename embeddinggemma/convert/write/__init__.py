"""Writers of checkpoints in the formats of other runtimes."""
