"""Text becomes sentences, and sentences become speech."""
