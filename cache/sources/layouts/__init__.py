"""Recognise how known data sets lie on disk: files, labels, groups and splits.

`base.py` is read first (`Folder`, `Row`, and `SourceLayout`, the protocol); each layout has one file, and `registry.py`
tries them in turn. `tables.py` reads CSV, and `unread.py` stops a scan at lists that no layout understands. Only
`sources/listing.py` asks the registry; evaluate reads UltraBench and PASCAL VOC with the code here.
"""
