"""Data sets: label names and palettes, loading, training augmentation."""
