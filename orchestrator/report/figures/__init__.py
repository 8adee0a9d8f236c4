"""The figures of a report, one kind a file: each takes results and gives a Drawing, or None where it has no data.

`drawing.py` renders them: SVG for a file, SVG for a page, PNG. matplotlib is imported only when a figure is drawn.
"""
