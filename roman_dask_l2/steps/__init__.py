"""One calibration step a file: kernel and declaration."""
