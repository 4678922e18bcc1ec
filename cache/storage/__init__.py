"""Store named immutable files in a folder or a bucket, and hold claims on them.

Read `protocol.py` (what a storage does) first, then `durable.py` (writing one local file), `local.py` (a folder),
`objects.py` (a bucket; `clients.py` keeps its connections, `waiting.py` waits for its answers), `urls.py` (what a URL
may say), `location.py` (which of the two a path or URL means), `claims.py`, and `pins.py` (what unfinished runs need).
Others import `open_storage`, `Storage`, `hold_claim`, `pin`, and `write_durably` for local files that lie outside a
store.
"""
