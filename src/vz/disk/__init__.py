"""Root file systems: layouts, OS templates, archives."""
