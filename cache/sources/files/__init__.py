"""Read sources from the files that were scanned, and refuse any other.

Read `reader.py` first; `stamps.py` says which reader a table names, `failing.py` what a user is told where one fails,
`describing.py` asks a file that no table names yet. The rooms of the cache import `SourceReader`, `images_in`,
`patient_in`, and the stamps.
"""
