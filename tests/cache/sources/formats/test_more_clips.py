"""MKV, WebM, WMV, M4V and WebP: frames as ffmpeg and OpenCV show them; what is cut short is told."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, Any

import av
import cv2
import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from tests.support.files.clips import write_clip
from tests.support.files.decoded import frames, probe
from tests.support.files.volumes import echo
from usjepa.cache.errors import SourceError

if TYPE_CHECKING:
    from pathlib import Path

CLIPS = [("a.mkv", "libx264", "yuv420p"), ("a.webm", "libvpx", "yuv420p"), ("a.wmv", "wmv2", "yuv420p"),
         ("a.m4v", "libx264", "yuv420p"), ("b.mkv", "ffv1", "gray")]  # fmt: skip


def as_ffmpeg(path: Path, height: int, width: int) -> np.ndarray:
    """Return [N, H, W, 3] as an ffmpeg of its own decodes a clip."""
    program = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", str(path), "-fps_mode", "passthrough"]
    raw = subprocess.run([*program, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"], check=True, capture_output=True)
    return np.frombuffer(raw.stdout, np.uint8).reshape(-1, height, width, 3)


def clip() -> np.ndarray:
    return np.repeat(
        echo(6, 48, 64)[..., None] // 3 + np.arange(6, dtype=np.uint8)[:, None, None, None] * 20, 3, axis=3
    )


@pytest.mark.parametrize(("name", "codec", "layout"), CLIPS)
def test_frames_are_those_of_ffmpeg(tmp_path: Path, name: str, codec: str, layout: str) -> None:
    file = write_clip(tmp_path / name, clip(), codec=codec, layout=layout)
    assert probe(file).frames == 6
    found = np.stack(frames(file, range(6))).astype(int)
    found = found if found.ndim == 4 else found[..., None]
    assert np.abs(found - as_ffmpeg(file, 48, 64)).mean() <= 0.3


@pytest.mark.parametrize(("name", "codec", "layout"), CLIPS)
def test_a_clip_that_is_cut_short_is_refused(tmp_path: Path, name: str, codec: str, layout: str) -> None:
    file = write_clip(tmp_path / name, clip(), codec=codec, layout=layout)
    file.write_bytes(file.read_bytes()[: file.stat().st_size * 3 // 4])
    with pytest.raises(SourceError, match="it is cut short"):
        probe(file)


def test_a_recording_whose_lengths_were_never_filled_in_is_whole(tmp_path: Path) -> None:
    file = write_clip(tmp_path / "a.webm", clip(), codec="libvpx", live="1")
    assert probe(file).frames == 6
    file.write_bytes(file.read_bytes()[:-400])
    with pytest.raises(SourceError, match="it is cut short"):
        probe(file)


@pytest.mark.parametrize("lossless", [True, False])
def test_webp_is_read_as_opencv_reads_it(tmp_path: Path, lossless: bool) -> None:
    still = np.stack([echo(1, 48, 64, seed)[0] for seed in range(3)], axis=-1)
    Image.fromarray(still).save(tmp_path / "a.webp", lossless=lossless)
    other = cv2.imread(str(tmp_path / "a.webp"), cv2.IMREAD_COLOR_RGB)
    assert probe(tmp_path / "a.webp").frames == 1
    assert other is not None
    assert np.array_equal(frames(tmp_path / "a.webp", [0])[0], other)


def test_an_animated_webp_is_a_clip(tmp_path: Path) -> None:
    pictures = [Image.fromarray(one) for one in clip()]
    pictures[0].save(tmp_path / "a.webp", save_all=True, append_images=pictures[1:], lossless=True)
    assert probe(tmp_path / "a.webp").frames == 6
    assert np.array_equal(frames(tmp_path / "a.webp", range(6)), clip())


def test_a_webp_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    Image.fromarray(echo(1, 48, 64)[0]).save(tmp_path / "a.webp")
    (tmp_path / "a.webp").write_bytes((tmp_path / "a.webp").read_bytes()[:-40])
    with pytest.raises(SourceError, match="it is cut short: it should hold"):
        probe(tmp_path / "a.webp")


def test_a_transport_stream_that_ends_within_a_packet_is_refused(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mpg"), "w", format="mpegts") as container:
        stream: Any = container.add_stream("mpeg2video", rate=25)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for frame in clip():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    whole = (tmp_path / "a.mpg").read_bytes()
    assert probe(tmp_path / "a.mpg").frames == 6
    (tmp_path / "a.mpg").write_bytes(whole[: len(whole) * 3 // 4 // 188 * 188 + 100])
    with pytest.raises(SourceError, match="it is cut short"):
        probe(tmp_path / "a.mpg")
