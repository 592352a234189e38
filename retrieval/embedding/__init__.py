"""Texts become vectors that are close when the meaning is."""
