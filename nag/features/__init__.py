"""Feature extractors, one a file; what one is, `extractor.py` says."""
