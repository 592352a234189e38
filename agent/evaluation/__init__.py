"""Measures on data of one's own; nothing is built in."""
