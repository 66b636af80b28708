"""Sources: where records come from. Each writes WFDB files in the layout of the data set that it stands for."""
