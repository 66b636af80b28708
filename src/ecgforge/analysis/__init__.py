"""Statistics of the study's results: intervals, comparisons, claims and verdicts."""
