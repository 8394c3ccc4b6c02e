"""The methods, one file per group of related families.

To add a method, add a file here, or a module of another package with an entry point of the group
`ftlab.methods`. It defines `METHODS`, a tuple of `MethodSpec` in display order, and imports torch
and peft inside functions only. `ftlab.methods.registry` finds it, and everything else uses the
registry.
"""
