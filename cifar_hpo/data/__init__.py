"""Images and labels: where they come from, decoded once and shared by all workers."""
