"""vzmigrate: a CT moves to another node.  ``source`` leads; ``target`` answers on the other node, through ssh."""
