"""The commands, one module each: `NAME`, `SUMMARY`, `DESCRIPTION`, `add_arguments` and `run`."""
