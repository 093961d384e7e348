"""Compile a training step for TPUs that are not attached; report its costs.

The reports say how much memory, time and network traffic a step needs.
"""
