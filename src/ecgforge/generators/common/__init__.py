"""What all generators share."""
