"""Hearing while somebody speaks."""
