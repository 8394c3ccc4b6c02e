"""The Results tab: every run as a row, and what can be done with one."""
