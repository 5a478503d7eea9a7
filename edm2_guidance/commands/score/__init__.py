"""The parts of calculate_metrics.py."""
