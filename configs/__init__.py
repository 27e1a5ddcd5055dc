"""Recipes, one file per method."""
