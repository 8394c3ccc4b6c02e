"""The Results tab: a table of all runs, and the actions on them."""
