"""Tools that a model may call; they know nothing of the rest of the project."""
