"""From raw WFDB records to record sets."""
