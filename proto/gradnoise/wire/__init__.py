"""gradnoise."""
