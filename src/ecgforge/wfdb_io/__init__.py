"""WFDB headers and signal files, read in blocks."""
