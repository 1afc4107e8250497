"""A simulated world of users and items, and logs that are written from it."""
