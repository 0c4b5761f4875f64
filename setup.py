"""Packages to install; everything else stands in pyproject.toml.

The recipes live in ``graphs/`` at the top of the repository, where users look for them, and are
installed as the (code-less) package ``roman_dask_l2.graphs``; so are the defaults of
``deploy/slurm.yaml``.
"""

from setuptools import find_packages, setup

setup(
    packages=[
        *find_packages(include=["roman_dask_l2", "roman_dask_l2.*"]),
        "roman_dask_l2.graphs",
        "roman_dask_l2.deploy",
    ],
    package_dir={"roman_dask_l2.graphs": "graphs", "roman_dask_l2.deploy": "deploy"},
    package_data={
        "roman_dask_l2": ["py.typed"],
        "roman_dask_l2.report": ["*.css"],
        "roman_dask_l2.graphs": ["*.yaml"],
        "roman_dask_l2.deploy": ["*.yaml"],
    },
)
