"""A sweep from its command line to its ranking."""
