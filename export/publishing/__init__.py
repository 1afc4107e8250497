"""Versions of a served model: publish, roll back, delete."""
