"""The page of one night."""
