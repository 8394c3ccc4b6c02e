"""The Learn tab: the ideas behind the methods, with interactive numbers."""
