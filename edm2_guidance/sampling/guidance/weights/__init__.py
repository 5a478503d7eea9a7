"""Guidance weights, one per file."""
