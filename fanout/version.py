"""The version of fanout and of its package (pyproject.toml reads it here)."""

__version__ = "0.1.0"
