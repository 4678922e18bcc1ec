"""Define the commands of `usjepa-cache`, a function each.

A command imports what it needs when it runs, so that --help answers at once. `options.py` has what several commands
share, `preview.py` the commands that build nothing, `build.py` those that build a store, and `upkeep.py` those for a
store that exists. `cli.py` alone imports them.
"""
