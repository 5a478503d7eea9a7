"""Samplers, one per file: a step from one noise level to the next."""
