"""Graphs and where they run: plan, kernels on tiles, tasks, schedulers, clusters, progress."""
