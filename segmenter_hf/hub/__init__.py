"""Repositories of the released checkpoints on the Hub: their model cards, their contents, and the push."""
