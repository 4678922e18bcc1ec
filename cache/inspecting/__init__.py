"""Show rows of a store: a contact sheet, or a page for a browser.

`sheet.py` draws the sheet. The page (`page.py`): rows are drawn evenly (`sampling.py`) and looked at (`examining.py`),
flagged (`doubts.py`, `flags.py`) and chosen (`choosing.py`); their pictures and neighbours are made (`cards.py`,
`pictures.py`, `axes.py`, `nearest.py`, `as_it_was.py`), and `view.py` says what the templates show.

The CLI alone imports them.
"""
