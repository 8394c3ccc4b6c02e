"""The methods, one file a close family.

A new method is a new file here, or a module of another package that its entry point of the group
`ftlab.methods` names. Either defines `METHODS`, a tuple of `MethodSpec` in the order in which they
are shown, and imports torch and peft inside functions only. `ftlab.methods.registry` finds it, and
everything else reads the registry.
"""
