"""Draws of noise: streams, normals, read noise, Poisson, Pearson; no graphs, no files."""
