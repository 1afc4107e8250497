"""Files of requests answered by an exported version, in chunks."""
