"""Code that all generators share."""
