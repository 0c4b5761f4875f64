"""The letters of the layer language, one file each: how their noise is drawn and expected."""
