"""Processor time from a source to its rows: `python -m benchmarks.cut [SOURCE] [--files 40] [--frames 8]`.

Of a sample of files: hashing and decoding the whole file (a scan does both), finding the region (once a file, with the
frames that it decodes for it), preparing a frame (grey, marks, percentiles), cutting a view. Milliseconds of one core,
so that other work on the machine counts little. Without SOURCE it makes h264 clips of phantom frames, 640 x 480 and 60
frames each.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from benchmarks.machine import describe, report
from usjepa.cache.frames.clips import ClipRegions, SourceRef
from usjepa.cache.frames.prepare import prepare
from usjepa.cache.frames.regions import find_region
from usjepa.cache.frames.views import View, apply_view, draw_views
from usjepa.cache.recipes.recipe import load_recipe
from usjepa.cache.scanning.scan import list_source
from usjepa.cache.sources.files.reader import SourceReader
from usjepa.cache.sources.phantom.source import Phantom

SEED = 1


def make_clips(root: Path, clips: int = 6, frames: int = 60) -> None:
    phantom = Phantom(load_recipe("demo").cache.phantom)
    patients = list(phantom.patients())
    for number in range(clips):
        with av.open(str(root / f"clip{number}.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=25)
            stream.width, stream.height, stream.pix_fmt = 640, 480, "yuv420p"
            source = patients[number % len(patients)]
            for i in range(frames):
                shown = cv2.resize(phantom.frame(source.path, i % source.frames), (640, 480))
                colour: Any = shown if shown.ndim == 3 else np.repeat(shown[..., None], 3, 2)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(colour, format="rgb24")))
            container.mux(stream.encode())


def measure(source: str, files: int, frames: int) -> tuple[dict[str, list[float]], int]:
    """Milliseconds of one core: of a frame's share of its file, of a frame, of a view."""
    settings = load_recipe("us-jepa").cache
    listing = list_source(source, settings)
    reader, rng = SourceReader.of(listing, settings), np.random.default_rng(SEED)
    chosen = [listing.entries[i] for i in rng.permutation(len(listing.entries))[:files]]
    samples: dict[str, list[float]] = {
        "hash, a frame": [],
        "decode, a frame": [],
        "find a region, a file": [],
        "prepare, a frame": [],
        "cut, a view": [],
    }
    seen = 0
    for entry in chosen:
        start = time.process_time()
        content = reader.content_hash(entry.path, entry.reader)
        hashed = time.process_time()
        facts = reader.probe(entry.path, entry.reader)
        decoded = time.process_time()
        samples["hash, a frame"].append((hashed - start) / facts.frames * 1e3)
        samples["decode, a frame"].append((decoded - hashed) / facts.frames * 1e3)
        seen += facts.frames
        ref = SourceRef(entry.path, entry.reader, content, facts.height, facts.width, facts.frames)
        start = time.process_time()
        region = ClipRegions(reader, settings.preprocess.deidentify).of(ref, lambda _: None)
        if region is None and facts.frames == 1:
            region = find_region(next(iter(reader.frames(entry.path, entry.reader, [0], content))))
        samples["find a region, a file"].append((time.process_time() - start) * 1e3)
        wanted = np.unique(np.linspace(0, facts.frames - 1, frames).astype(int)).tolist()
        for number, frame in zip(wanted, reader.frames(entry.path, entry.reader, wanted, content), strict=True):
            start = time.process_time()
            prepared = prepare(frame, settings.preprocess, region)
            middle = time.process_time()
            for k in range(settings.views.count):
                shape = np.array([prepared.region.shape])
                boxes, flips = draw_views(settings.seed, [(content, number, k)], shape, settings.views)
                view = View(*boxes[0].tolist(), *flips[0].tolist())
                apply_view(prepared, view, settings.image_size, settings.preprocess.deidentify)
            end = time.process_time()
            samples["prepare, a frame"].append((middle - start) * 1e3)
            samples["cut, a view"].append((end - middle) / settings.views.count * 1e3)
    return samples, seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("source", nargs="?")
    parser.add_argument("--files", type=int, default=40)
    parser.add_argument("--frames", type=int, default=8)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if args.source is None:
            make_clips(Path(folder))
        samples, seen = measure(args.source or folder, args.files, args.frames)
    kind = "of the given folder" if args.source else "h264, 640 x 480, of phantom frames"
    means = ", ".join(f"{name} {statistics.mean(values):.2f}" for name, values in samples.items())
    note = f"{seen:,} frames, {kind}; means: {means}"
    report("cut", "ms of one core", samples, describe(("av", "opencv-python-headless", "numpy")), note)


if __name__ == "__main__":
    main()
