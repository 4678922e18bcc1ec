"""What a store in a bucket costs in round trips: `python -m benchmarks.object_storage`."""
