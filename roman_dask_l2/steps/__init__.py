"""One file per calibration step: its kernel(s) and, at the end, its declaration.

The modules here know nothing of Dask, files or configuration: arrays in, new arrays out.
"""
