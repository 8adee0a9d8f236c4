"""The figures of a report, one kind per file: each turns results into a Drawing, or into None without data.

`drawing.py` renders them: SVG for a file, SVG for a page, PNG. matplotlib is imported only when a figure is drawn.
"""
