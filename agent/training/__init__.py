"""Trains what ships with a model, or on data of one's own: read-outs, choosers, correctors, embedding adapters."""
