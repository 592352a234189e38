"""One turn: its graph, its nodes, its state, and the events it emits."""
