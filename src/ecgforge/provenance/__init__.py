"""Provenance of models and records: lineage, file contents by DVC's digests, and gc."""
