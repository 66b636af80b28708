"""Code that the diffusion generators share."""
