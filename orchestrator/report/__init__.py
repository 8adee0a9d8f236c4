"""Reports: from records to results, comparisons, tables, pages and figures."""
