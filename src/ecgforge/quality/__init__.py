"""Is synthetic ECG like real ECG?

Scores of two record sets, each beside its real-against-real baseline.
"""
