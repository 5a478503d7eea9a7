"""Guidance references, one per file."""
