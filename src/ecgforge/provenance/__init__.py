"""Where models and records come from: lineage, content by the digests of DVC, and gc."""
