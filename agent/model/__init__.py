"""Language models: what is sent to them, what is read from their first token, and when to look something up."""
