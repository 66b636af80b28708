"""What diffusion generators share."""
