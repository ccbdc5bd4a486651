"""The command line."""

from affectron.cli.app import app, main

__all__ = ["app", "main"]
