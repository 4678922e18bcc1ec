"""Define every setting of a recipe, and load recipes from `pipelines.yaml` and `--set`.

Read `base.py` (kinds of values) and `marks.py` (what a field identifies) first, then one file per section (`cache.py`,
`train.py`, `evaluate.py`), then `recipe.py` (the whole document, loaded and overridden) and `describe.py` (printed).
Others import the settings classes, `Recipe`, `load_recipe`, `override_recipe` and, to make an identity, `hard_values`.
"""
