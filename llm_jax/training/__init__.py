"""The one train loop and what it is made of: losses, optimizers, rows of a step, what a person sees."""
