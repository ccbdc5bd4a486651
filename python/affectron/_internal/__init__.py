"""Plumbing that every layer uses and no user imports."""
