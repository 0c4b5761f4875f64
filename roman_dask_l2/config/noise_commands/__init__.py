"""The letters of the layer language, one file each: what users may write and what it means."""
