"""The pipeline as a picture: `recipe` draws its steps and what flows between them, `tasks` the Dask
graph that is made of it. Both draw on a `canvas`, which is written as SVG, HTML or PNG."""
