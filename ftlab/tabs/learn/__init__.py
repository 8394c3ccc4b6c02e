"""The Learn tab: the ideas behind the methods, on numbers that move."""
