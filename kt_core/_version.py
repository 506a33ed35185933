"""The version, where the package can read it without importing its own root."""

__version__ = "0.1.0"
