"""Code that all classifiers share."""
