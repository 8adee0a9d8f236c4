"""Feature extractors, one per file; `extractor.py` defines what an extractor is."""
