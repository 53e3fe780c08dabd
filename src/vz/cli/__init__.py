"""The command line: one module per verb or program, found by the tables in ``table``."""
