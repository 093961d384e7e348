"""Recipes: stages in their order, each cached; and what they leave."""
