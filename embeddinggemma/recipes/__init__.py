"""Recipes: cached tasks in sequence, from data to a finished model."""
