"""The loop and what it needs; models, loaders and optimizers come in as arguments."""
