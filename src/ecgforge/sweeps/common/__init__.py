"""What all sweeps share."""
