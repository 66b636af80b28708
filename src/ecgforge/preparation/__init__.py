"""Preparation of raw WFDB records as record sets."""
