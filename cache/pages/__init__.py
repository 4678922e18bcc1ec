"""Make pages of one design: self-contained HTML, on desktop and phone.

Reading order: `environment.py` (templates and their escaping), `templates/base.html` and `templates/pieces.html`
(header, navigation, folds), `style.css`; `drawing.py` draws inline SVG, `pictures.py` puts frames into a page.
All packages use this room; it imports nothing of them.

A page's template begins with `{% extends "base.html" %}`, fills the blocks `title`, `kind`, `heading` and `content`,
and is given `sections`, the list of `Section` that the navigation shows. `{% from "pieces.html" import fold, tiles,
notes, scrolling, facts, head %}` gives the pieces. Blocks `policy`, `meta`, `style` and `script` take what a page needs
of its own. Colours are the variables at the top of `style.css`, never literal ones.
"""
