"""The site of docs/: its reference, made from the code, and the check of its links."""
