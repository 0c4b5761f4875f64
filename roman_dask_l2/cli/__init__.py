"""The command line, one file a group of commands, each with `add` (options) and `act`."""
