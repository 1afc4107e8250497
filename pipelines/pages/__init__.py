"""The pages that a run ends with, and what all pages are written with."""
