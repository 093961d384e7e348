"""Checks that another runtime computes an export's vectors."""
