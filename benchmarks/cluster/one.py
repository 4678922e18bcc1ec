"""One build with what is pretended: `python -m benchmarks.cluster.one STORE [--dask local:1] [--devices cpu,cpu]`."""

from __future__ import annotations

import argparse


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("store")
    parser.add_argument("--rows", type=int)
    parser.add_argument("--dask")
    parser.add_argument("--devices")
    args = parser.parse_args()
    # Here, as commands import: a worker that is started imports what this module does, and would begin with torch.
    if args.dask is None:
        import benchmarks.cluster.pretending  # noqa: F401 - changes what the build runs on; workers do so themselves
    from benchmarks.cluster import recipe
    from usjepa.cache.building.build import build
    from usjepa.cache.building.request import BuildRequest

    request = BuildRequest(source="phantom", teacher="random", dask=args.dask, devices=args.devices)
    build(args.store, recipe(args.rows), request)


if __name__ == "__main__":
    main()
