"""What determines an image. No torch here, and nothing but the standard library."""
