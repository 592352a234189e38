"""What somebody wants, read from the whole N-best list: commands, intents, keywords, whether it was meant; skills."""
