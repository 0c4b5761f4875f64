"""The instrument's vocabulary and reproducible arithmetic: geometry, exposure, flags, steps."""
