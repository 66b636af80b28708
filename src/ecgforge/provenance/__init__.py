"""Where models and record sets come from: lineage, content by DVC's digests, and garbage collection."""
