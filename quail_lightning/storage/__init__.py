"""What lies on disk: written whole or not at all, locked, for one account alone, and read with clear refusals."""
