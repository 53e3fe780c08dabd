"""Checkpoint and restore of a CT by criu(8)."""
