"""Define every setting of a recipe, and load recipes from `pipelines.yaml` and `--set`.

Read `settings.py` first, then `recipe.py`. Others import the settings classes and `load_recipe`.
"""
