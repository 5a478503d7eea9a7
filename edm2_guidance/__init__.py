"""Guided samples of diffusion networks, and their scores."""
