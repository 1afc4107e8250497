"""Tables and figures of papers: what they compare, the queue that trains it, and their pages."""
