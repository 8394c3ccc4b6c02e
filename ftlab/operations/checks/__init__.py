"""One module a group of checks: plain functions from facts to a `Finding`, without torch."""
