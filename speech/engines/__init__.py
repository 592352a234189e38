"""Recognisers: every one gives an N-best list with log-probabilities that compare."""
