"""How a number becomes a vector: one module an encoding; the folder is the registry."""
