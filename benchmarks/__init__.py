"""What the toolkit's ways save beside plain ones: `python -m benchmarks`."""
