"""Store named immutable files in a folder or a bucket, and hold claims on them.

Read `local.py` (the `Storage` protocol and the folder) first, then `objects.py` (buckets), then `claims.py`.
Others import `open_storage`, `Storage` and `Claim`.
"""
