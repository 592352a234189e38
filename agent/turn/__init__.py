"""One turn: its graph, the steps of it, what it knows, and what it tells while it happens."""
