"""Where trials run: a pool of warm local processes, and what goes to them and comes back."""
