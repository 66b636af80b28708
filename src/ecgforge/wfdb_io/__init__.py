"""A reader of WFDB headers and signal files, in blocks."""
