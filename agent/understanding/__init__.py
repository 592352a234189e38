"""Understanding of a whole N-best list: commands, intents, keywords, directed speech, and the skills that use them."""
