"""Write the evaluation's document and its page, CSV and LaTeX tables.

Read `document.py` first, then `report.py`.
"""
