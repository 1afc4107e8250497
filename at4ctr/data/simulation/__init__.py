"""A simulated world of users and items, and the logs written of it."""
