"""Make an evaluation's document and write it as a page, CSV and LaTeX tables.

Reading order: `document.py` (what is kept), `compose.py` (how it is made, with
`differences.py`), the room `numbers`, `page.py` with `figures.py`, `templates/`,
`scores_csv.py`, `latex.py`, `text.py`. Others import `read_document`, `compose` and the writers.
"""
