"""Guidance changed by hand, and what comes of it at once; `page.py` alone knows the library that draws it."""
