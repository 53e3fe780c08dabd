"""Thin wrappers of Linux calls: named as in the man pages, no policy, failures are OSError."""
