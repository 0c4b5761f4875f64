"""Honest input with known truth: a simulated exposure and all its reference files."""
