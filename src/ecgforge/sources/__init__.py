"""Sources: where records come from.

Each writes WFDB files in the layout of the data set that it stands for.
"""

FILES = "FILES.txt"  # in a raw folder: the names of all files that were written there
