"""Noise realisations that go through the same pipeline as the exposure.

`label` reads the layer language, `streams` makes the random streams, `read_noise`, `poisson` and
`pearson` draw, and `layers` turns a configuration's NOISE block into one Dask graph.
"""
