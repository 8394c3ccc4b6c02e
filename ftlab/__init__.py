"""ftlab: what fine-tuning really costs, measured side by side.

Packages, in the order in which they build on each other:
`methods` (what is compared), `models`, `tasks`, `runs` (the record), `training` (inside one run),
`playground`, `charts` and `ui`.
"""

__version__ = "0.1.0"
