"""Define the commands of `usjepa-cache`, a function each.

A command imports what it needs when it runs, so that --help answers at once. `options.py` has what several commands
share, `preview.py` the commands that build nothing, `build.py` those that build a store, `upkeep.py` those that look at
a store or mend it, `life.py` those that copy it or take parts away, `doctor.py` the one that
looks at the machine. `cli.py` alone imports them.
"""
