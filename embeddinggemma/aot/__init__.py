"""Compilation for TPUs that are not here: memory, time, traffic of a step."""
