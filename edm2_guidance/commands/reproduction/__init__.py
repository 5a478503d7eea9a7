"""Subcommands of reproduce.py that have a page of their own."""
