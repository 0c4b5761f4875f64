"""Drawings of recipes and of their task graphs."""
