"""Generators of ECG records by rhythm: pure torch, one contract (`base.Generator`), one registry (`registry.GENERATORS`)."""
