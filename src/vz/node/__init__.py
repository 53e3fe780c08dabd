"""The node daemon, what asks it, and the node's boot and shutdown; ``cli`` hands it what runs a command."""
