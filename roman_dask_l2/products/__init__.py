"""From one exposure to its files: job, Level-2 image, noise layers, memory, provenance."""
