"""Guidance: what D is moved away from (references), how far (weights), how (rules); and their parts put together."""
