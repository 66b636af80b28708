"""What the study says: statistics, comparisons, claims and verdicts."""
