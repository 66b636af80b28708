"""One training loop for generators and classifiers."""
