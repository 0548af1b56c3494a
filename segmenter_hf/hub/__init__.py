"""Repositories on the Hub, of released checkpoints and of models that users train: cards, contents, and the push."""
