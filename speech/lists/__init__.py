"""N-best lists: merging, confusion networks, rescoring, choice and correction."""
