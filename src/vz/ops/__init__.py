"""What can be done to a CT: one module per operation, and the tools that make an operation whole (undo, journal)."""
