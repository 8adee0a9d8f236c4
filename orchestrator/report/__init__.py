"""From records to what a person or a program reads: results, comparisons, tables."""
