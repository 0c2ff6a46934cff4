"""One file per model family: its config, its weight table, its prompt."""
