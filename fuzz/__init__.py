"""Hostile input for every parser; `make fuzz` runs it."""
