"""Configuration files: reading them, what their keys mean, rewriting them without losing a byte of the rest."""
