"""Files: layout, arrays, references, Level 1, Level 2, FITS, WCS, the TEMP store, xarray view."""
