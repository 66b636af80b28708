"""Records: one format for real, simulated and synthetic ECGs."""
