"""The Plan tab: what any model would cost to fine-tune, by its config alone."""
