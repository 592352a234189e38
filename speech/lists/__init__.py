"""What else it may have been: N-best lists, compared, weighed, chosen from and corrected."""
