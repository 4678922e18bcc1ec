"""One build with what is pretended: `python -m benchmarks.cluster.one STORE [--dask local:1] [--devices cpu,cpu]`."""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import benchmarks.cluster.pretending  # noqa: F401 - changes what the build runs on
from benchmarks.cluster import recipe
from usjepa.cache.building import build as building
from usjepa.cache.building.request import BuildRequest


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("store")
    parser.add_argument("--rows", type=int)
    parser.add_argument("--dask")
    parser.add_argument("--devices")
    args = parser.parse_args()
    took = []

    def timed(real: Any) -> Any:
        def call(*given: Any, **named: Any) -> None:
            start = time.perf_counter()
            real(*given, **named)
            took.append(time.perf_counter() - start)

        return call

    for name in ("make_shards", "make_shards_on"):
        vars(building)[name] = timed(vars(building)[name])
    request = BuildRequest(source="phantom", teacher="random", dask=args.dask, devices=args.devices, device=None)
    building.build(args.store, recipe(args.rows), request)
    print(json.dumps(took[0]))


if __name__ == "__main__":
    main()
