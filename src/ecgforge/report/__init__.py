"""The report: a page in one file, with plots, tables and ECGs on ECG paper."""
