"""ftlab: what fine-tuning really costs, measured side by side.

`docs/architecture.md` describes the packages and which of them may import which.
"""

__version__ = "0.1.0"
