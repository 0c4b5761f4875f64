"""This machine: processes, memory, versions of packages and source, logs, text tables."""
