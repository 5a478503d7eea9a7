"""`reproduce.py verify`: what nobody could try where this was written, the published files and a real device."""
