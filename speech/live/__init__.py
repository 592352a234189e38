"""Streaming recognition while somebody speaks."""
