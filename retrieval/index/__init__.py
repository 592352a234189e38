"""Passages and vectors as one thing, in memory or in a folder that is never half-written."""
