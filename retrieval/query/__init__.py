"""What is asked: its filter, its instruction, its words, how they sound, and the names in it."""
