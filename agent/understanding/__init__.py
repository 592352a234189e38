"""What somebody wants, read from the whole N-best list: commands, intents, keywords, and whether it was meant."""
