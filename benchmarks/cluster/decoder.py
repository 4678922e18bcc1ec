"""A child that pretends to decode: `python -m benchmarks.cluster.decoder SOCKET PIPE`.

It takes a time a row, sleeping, and sends rows of nothing. It speaks as `usjepa.cache.decoding.worker` does.
"""

from __future__ import annotations

import json
import math
import os
import signal
import socket
import sys
import time

from usjepa.cache.decoding.lifeline import end_with_parent
from usjepa.cache.decoding.wire import Wire


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent(int(sys.argv[2]))
    wire = Wire(socket.socket(fileno=int(sys.argv[1])), None)
    told = json.loads(os.environ["USJEPA_PRETENDED"])
    wire.receive()
    try:
        while True:
            rows = len(json.loads(wire.receive())["block"]["rows"])
            until = time.monotonic() + rows / told["decoder_rate"]
            shapes = {name: [rows, *told[name]] for name in ("pixels", "regions")}
            blank = {name: bytes(math.prod(shape)) for name, shape in shapes.items()}
            time.sleep(max(0.0, until - time.monotonic()))
            answer = {"behind": len(blank), "holes": [], "blank": [], "doubtful": [], **shapes}
            wire.send(json.dumps(answer).encode())
            for data in blank.values():
                wire.send(data)
    except (EOFError, ConnectionError):
        return


if __name__ == "__main__":
    main()
