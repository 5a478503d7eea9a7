"""Guidance rules, one per file."""
