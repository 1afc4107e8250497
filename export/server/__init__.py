"""A server of exported versions by gRPC and REST."""
