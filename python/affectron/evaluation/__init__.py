"""Questions to a model, and what a program of neurons does to its answers."""
