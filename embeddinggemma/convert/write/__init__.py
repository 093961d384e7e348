"""A checkpoint out, in another runtime's format."""
