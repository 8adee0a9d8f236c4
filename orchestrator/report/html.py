"""report.html: one file without scripts or outside resources, for light and dark screens and for print."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import groupby
from string import Template

from orchestrator.report.content import Bullets, CodeBlock, Content, Details, Part, Section
from orchestrator.report.figures.colours import Colours
from orchestrator.report.figures.drawing import Drawing, svg_inline
from orchestrator.report.table import Column, Row, Table, TableCell

PAGE = Template("""\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="color-scheme" content="light dark">
<title>$title</title>
<style>
$style
</style>
</head>
<body>
<main>
$body
</main>
</body>
</html>
""")

STYLE = Template("""\
:root { $light --better: #0a6b45; --worse: #a8321c; --undecided: #6b5500; --raised: #f5f6f8; color-scheme: light; }
@media screen and (prefers-color-scheme: dark) {
  :root { $dark --better: #5fd3a4; --worse: #ff9b85; --undecided: #e3c766; --raised: #1d2127; color-scheme: dark; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, "Helvetica Neue", Arial, "DejaVu Sans", sans-serif; }
main { max-width: 78rem; margin: 0 auto; padding: 1.4rem 1.5rem 4rem; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.4rem 0 .6rem; padding-top: .7rem; border-top: 1px solid var(--grid); }
#verdict h2 { margin-top: .9rem; }
p { max-width: 50rem; margin: .5rem 0; }
.kicker { color: var(--muted); font-size: .85rem; margin: 0 0 .1rem; }
.facts { color: var(--muted); font-size: .95rem; margin: .2rem 0 .7rem; max-width: none; }
.notice { border-left: 4px solid var(--undecided); background: var(--raised); padding: .6rem .9rem; max-width: none; }
.headline { font-size: 1.25rem; line-height: 1.4; max-width: 66rem; margin: .6rem 0; text-wrap: pretty; }
.limits { color: var(--muted); font-size: .92rem; max-width: 54rem; padding-left: 1.15rem; margin: .7rem 0; }
.limits li { margin: .25rem 0; }
.scroll { overflow-x: auto; margin: .6rem 0; }
caption { text-align: left; font-weight: 600; padding-bottom: .2rem; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 600; color: var(--muted); vertical-align: bottom; line-height: 1.25; }
th, td { padding: .38rem 1.1rem .38rem 0; border-bottom: 1px solid var(--grid); }
td { vertical-align: top; white-space: nowrap; }
td.wrap { white-space: normal; min-width: 14rem; overflow-wrap: anywhere; }
.number { text-align: right; }
td small { display: block; color: var(--muted); font-size: .9em; line-height: 1.3; }
small.verdict, small.long { white-space: normal; max-width: 12.5em; }
small.long:not(.verdict) { min-width: 10em; max-width: 16em; }
.number small { margin-left: auto; }
.better small.verdict { color: var(--better); font-weight: 600; }
.worse small.verdict { color: var(--worse); font-weight: 600; }
.undecided small.verdict, .mixed small.verdict { color: var(--undecided); font-weight: 600; }
td.loud { font-weight: 600; }
td.loud.better { color: var(--better); }
td.loud.worse { color: var(--worse); }
td.loud.undecided, td.loud.mixed { color: var(--undecided); }
td.loud small.verdict { color: var(--muted); font-weight: 400; max-width: 17em; min-width: 9em; }
.swatch { display: inline-block; width: .7em; height: .7em; border-radius: 2px; margin-right: .5em;
  print-color-adjust: exact; -webkit-print-color-adjust: exact; }
.figures { display: flex; flex-wrap: wrap; align-items: flex-start; gap: 1.2rem 2rem; }
figure { margin: .6rem 0; min-width: 0; flex: 0 1 27rem; }
figure.tall { flex: 0 1 55rem; }
figure .scroll { margin: 0 0 .4rem; }
svg { display: block; width: 100%; height: auto; }
figcaption { color: var(--muted); font-size: .84rem; line-height: 1.45; max-width: 46rem; }
.note { color: var(--muted); font-size: .85rem; max-width: 62rem; margin: .3rem 0; }
pre { background: var(--raised); padding: .7rem .9rem; overflow-x: auto; font-size: .85rem; line-height: 1.4; }
details { margin: .8rem 0; }
summary { cursor: pointer; color: var(--muted); }
@media screen and (min-width: 48rem) {
  #verdict { display: flex; flex-wrap: wrap; column-gap: 2.5rem; align-items: flex-start; }
  #verdict > h2 { flex: 1 0 100%; }
  #verdict > .words { flex: 0 1 auto; max-width: 100%; }
  #verdict > .figures { flex: 1 1 31rem; max-width: 55rem; }
}
@media screen and (min-width: 105rem) {
  main { max-width: 114rem; }
  #verdict > .words { max-width: 72rem; }
}
@media screen and (max-width: 48rem) {
  main { padding: 1rem .9rem 3rem; }
  .headline { font-size: 1.08rem; }
  figure, figure.tall { flex-basis: 100%; }
  #verdict thead { position: absolute; clip-path: inset(50%); width: 1px; height: 1px; overflow: hidden; }
  #verdict table, #verdict tbody, #verdict caption { display: block; }
  #verdict tr { display: flex; flex-wrap: wrap; gap: .15rem 1.2rem; padding: .5rem 0;
    border-bottom: 1px solid var(--grid); }
  #verdict td { border: 0; padding: 0; text-align: left; white-space: normal; max-width: 100%; }
  #verdict td::before { content: attr(data-name); display: block; color: var(--muted); font-size: .78rem;
    font-weight: 400; line-height: 1.2; }
  #verdict td:first-child { flex: 1 0 100%; font-weight: 600; order: -2; }
  #verdict td.loud { order: -1; flex: 1 0 100%; }
  #verdict td.loud::before { content: none; }
  #verdict td:first-child::before { content: none; }
  #verdict td small { max-width: none; min-width: 0; margin: 0; }
}
@media print {
  @page { size: A4; margin: 13mm; }
  :root { color-scheme: light; }
  main { max-width: none; padding: 0; }
  body { font-size: 10pt; }
  h2 { break-after: avoid-page; margin-top: 1.4rem; }
  p, .limits, .note, .headline { max-width: none; }
  .figures { display: block; }
  figure { display: inline-block; width: 48%; vertical-align: top; }
  figure.tall { display: block; width: auto; }
  figure, tr, .notice, caption { break-inside: avoid; }
  thead { display: table-header-group; }
  .scroll { overflow: visible; }
  .scroll > svg { min-width: 0 !important; }
  table { font-size: 7.4pt; width: 100%; }
  td, th { padding-right: .5rem; }
  td, td.wrap, small.long:not(.verdict), td.loud small.verdict { white-space: normal; min-width: 0; }
  td.number, td:first-child { white-space: nowrap; }
  td small { white-space: normal; overflow-wrap: anywhere; }
  figcaption, .note { font-size: 8.5pt; }
  details:not([open]) { display: none; }
  pre { white-space: pre-wrap; overflow-wrap: anywhere; background: none; border: 1px solid var(--grid); }
}""")

NARROWEST = 0.72  # of its natural width: on a phone, a figure shrinks to this at most, and then scrolls
LONG = 60  # characters; longer cells are wrapped
LONG_DETAIL = 25  # characters; an interval is shorter, so it stays on one line


def page(content: Content, colours: Colours) -> str:
    parts = [
        f'<p class="kicker">nagbench report</p>\n<h1>{escape(content.sweep)}</h1>',
        f'<p class="facts">{escape(content.facts)}</p>' if content.facts else "",
        *(f'<p class="notice" role="note">{escape(notice)}</p>' for notice in content.notices),
        f'<p class="headline">{escape(content.headline)}</p>' if content.headline else "",
        *(_section(section, colours) for section in content.sections()),
    ]
    style = STYLE.substitute(light=colours.css(dark=False), dark=colours.css(dark=True))
    body = "\n".join(filter(None, parts))
    return PAGE.substitute(title=escape(f"{content.sweep}: nagbench report"), style=style, body=body)


def _section(section: Section, colours: Colours) -> str:
    parts = []
    for drawn, run in groupby(section.parts, key=lambda part: isinstance(part, Drawing)):
        body = "\n".join(_part(part, colours) for part in run)
        kind = "figures" if drawn else "words"
        parts.append(f'<div class="{kind}">\n{body}\n</div>')
    body = "\n".join(parts)
    return f'<section id="{section.name}">\n<h2>{escape(section.title)}</h2>\n{body}\n</section>'


def _part(part: Part, colours: Colours) -> str:
    match part:
        case Table():
            return _table(part, colours)
        case Drawing():
            return _figure(part, colours)
        case Details():
            inside = "\n".join(_part(each, colours) for each in part.parts)
            return f"<details>\n<summary>{escape(part.summary)}</summary>\n{inside}\n</details>"
        case CodeBlock():
            return f"<pre><code>{escape(part.text)}</code></pre>"
        case Bullets():
            points = "\n".join(f"<li>{escape(point)}</li>" for point in part.points)
            return f'<ul class="limits">\n{points}\n</ul>'
        case str():
            return f"<p>{escape(part)}</p>"


def _figure(drawing: Drawing, colours: Colours) -> str:
    svg = svg_inline(drawing, colours)
    width = drawing.figure.get_figwidth() * 72
    svg = svg.replace("<svg ", f'<svg style="min-width: {NARROWEST * width:.0f}pt" ', 1)
    kind = ' class="tall"' if drawing.tall else ""
    return (
        f'<figure id="fig-{escape(drawing.name)}"{kind}>\n<div class="scroll">\n{svg}\n</div>\n'
        f"<figcaption>{escape(drawing.caption)}</figcaption>\n</figure>"
    )


def _table(table: Table, colours: Colours) -> str:
    shown = table.on_page()
    caption = f"<caption>{escape(shown.title)}</caption>\n" if shown.title else ""
    head = "".join(
        f'<th scope="col"{_class("number" if column.numeric else "")}>{escape(column.heading)}</th>'
        for column in shown.columns
    )
    body = "\n".join(_row(row, shown.columns, colours) for row in shown.rows)
    notes = "".join(f'\n<p class="note">{escape(note)}</p>' for note in shown.notes)
    return (
        f'<div class="scroll" tabindex="0">\n<table>\n{caption}<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody>\n</table>\n</div>{notes}"
    )


def _row(row: Row, columns: Sequence[Column], colours: Colours) -> str:
    swatch = ""
    if row.arm is not None:
        swatch = f'<span class="swatch" style="background: var(--arm{colours.place(row.arm)})"></span>'
    pairs = zip(row.cells, columns, strict=True)
    cells = "".join(_cell(cell, column, swatch if column is columns[0] else "") for cell, column in pairs)
    return f"<tr>{cells}</tr>"


def _cell(cell: TableCell, column: Column, swatch: str) -> str:
    how = _class("verdict" if cell.verdict else "", "long" if len(cell.detail) > LONG_DETAIL else "")
    detail = f"<small{how}>{escape(cell.detail)}</small>" if cell.detail else ""
    wide = "wrap" if len(cell.text) > LONG else ""
    kinds = ["number" if column.numeric else "", wide, cell.verdict.replace(" ", "-"), "loud" if cell.loud else ""]
    name = f' data-name="{escape(column.heading)}"' if column.heading else ""
    return f"<td{_class(*kinds)}{name}>{swatch}{escape(cell.text)}{detail}</td>"


def _class(*names: str) -> str:
    words = " ".join(filter(None, names))
    return f' class="{words}"' if words else ""
