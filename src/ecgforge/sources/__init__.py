"""Sources of raw records: each writes WFDB files in the layout of its dataset."""

FILES = "FILES.txt"  # in a raw folder: the names of all written files
