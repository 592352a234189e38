"""Finds passages: channels fused, the dialogue in mind, the best read again."""
