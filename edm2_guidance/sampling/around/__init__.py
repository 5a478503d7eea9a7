"""What is around guidance, one kind per file."""
