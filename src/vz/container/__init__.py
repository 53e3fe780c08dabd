"""What a CT is: its identity and paths, its lock, its range of host ids, the record of its run."""
