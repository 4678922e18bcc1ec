"""Read what is packed into other files: archives, and images in cells of tables.

`memory.py` gives bytes a path that any decoder can open, and is read first. `members.py` lists and opens the members of
an archive; `archive.py` reads them through the readers of their own formats, `parquet.py` the cells of Parquet.
`sources/registry.py` imports the readers; the layouts open lists in archives with `members.py`.
"""
