"""Which configuration is best, by how much, and whether that is luck."""
