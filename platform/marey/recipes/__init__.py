"""Recipes: a batch in, a loss and metrics out. What is trained and why; never how or where."""
