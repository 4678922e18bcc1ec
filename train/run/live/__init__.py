"""Show a run while it goes on: `RUN/index.html`, which a browser loads again by itself.

Reading order: `watching.py` (when it is written, and that it never stops or slows a run), `figures.py` (the curves),
`page.py` with `templates/` (the rest). The loop imports `watched`.
"""
