"""Clips: frames are the ones that decode, in order, and a clip that is not whole is named, never shortened."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING

import av
import numpy as np
import pytest
from PIL import Image

from tests.support.files.clips import ends_well_in_a_fork, grey_steps, write_clip
from tests.support.files.damage import cut
from tests.support.files.decoded import frames, probe
from tests.support.processes.forked import in_own_process
from usjepa.cache.errors import SourceError
from usjepa.cache.sources.base import FileFacts
from usjepa.cache.sources.formats.video import VideoReader
from usjepa.cache.sources.registry import reader_of_file

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

FORMATS = [
    pytest.param("mp4", "libx264", "yuv420p", id="h264"),
    pytest.param("mp4", "libx264", "yuv444p", id="h264-444"),
    pytest.param("mov", "libx264", "yuv420p", id="mov"),
    pytest.param("avi", "mjpeg", "yuvj420p", id="motion-jpeg"),
    pytest.param("avi", "mpeg4", "yuv420p", id="mpeg4"),
    pytest.param("avi", "rawvideo", "gray", id="raw-grey"),
    pytest.param("avi", "ffv1", "gray", id="ffv1-grey"),
    pytest.param("mpeg", "mpeg1video", "yuv420p", id="mpeg1"),
    pytest.param("mpg", "mpeg2video", "yuv420p", id="mpeg2"),
]


def levels(frames: list[NDArray[np.uint8]]) -> list[int]:
    """Return which of the grey steps each frame shows."""
    return [round(float(frame.mean()) / 10) for frame in frames]


@pytest.mark.parametrize(("ending", "codec", "layout"), FORMATS)
def test_every_frame_is_counted_and_comes_in_order(tmp_path: Path, ending: str, codec: str, layout: str) -> None:
    path = write_clip(tmp_path / f"a.{ending}", grey_steps(20), codec, layout)
    assert probe(path) == FileFacts(20, 48, 64)
    found = frames(path, range(20))
    assert levels(found) == list(range(20))
    assert found[0].dtype == np.uint8
    assert found[0].shape == ((48, 64) if layout == "gray" else (48, 64, 3))


def test_colours_come_back_as_rgb(tmp_path: Path) -> None:
    pictures = np.zeros((3, 48, 64, 3), np.uint8)
    pictures[..., 0] = 250
    path = write_clip(tmp_path / "a.mp4", pictures, layout="yuv444p")
    red, green, blue = frames(path, [0])[0][24, 32].tolist()
    assert red > 240
    assert max(green, blue) < 10


def test_frames_of_a_gif_are_whole_pictures_over_black(tmp_path: Path) -> None:
    path = tmp_path / "a.gif"
    pictures = [Image.fromarray(frame) for frame in grey_steps(5)]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=40)
    assert probe(path) == FileFacts(5, 48, 64)
    assert levels(frames(path, range(5))) == list(range(5))
    Image.new("P", (64, 48), 0).save(path, transparency=0)
    assert frames(path, [0])[0].max() == 0


def test_any_ascending_choice_gives_the_frames_of_a_full_read(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", grey_steps(20))
    full = frames(path, range(20))
    reader = VideoReader()
    for wanted in ([3, 9, 19], [0, 5], [5, 5, 6], [19], []):
        assert all(np.array_equal(a, full[n]) for a, n in zip(reader.frames(path, "", wanted), wanted, strict=True))


def test_successive_ascending_reads_decode_a_clip_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_clip(tmp_path / "a.mp4", grey_steps(20))
    opened = []
    original = av.open
    monkeypatch.setattr(av, "open", lambda *args, **how: opened.append(args) or original(*args, **how))
    reader = VideoReader()
    seen = [levels(list(reader.frames(path, "", wanted))) for wanted in ([0, 1, 2], [2, 3], [7, 8], [19])]
    assert seen == [[0, 1, 2], [2, 3], [7, 8], [19]]
    assert len(opened) == 1


@in_own_process
def test_a_forked_child_reads_right_frames_and_leaves_the_parents_decoder_alone(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", grey_steps(20))
    reader = VideoReader()
    assert levels(list(reader.frames(path, "", [0, 1]))) == [0, 1]
    assert ends_well_in_a_fork(lambda: levels(list(reader.frames(path, "", range(2, 20)))) == list(range(2, 20)))
    assert levels(list(reader.frames(path, "", [5, 6]))) == [5, 6]


@pytest.mark.parametrize("share", [0.05, 0.4, 0.8, 0.97])
@pytest.mark.parametrize("flags", ["faststart", "frag_keyframe+empty_moov", ""])
def test_a_truncated_mp4_is_refused(tmp_path: Path, share: float, flags: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (30, 48, 64, 3), np.uint8)
    path = cut(write_clip(tmp_path / "clip.mp4", noise, movflags=flags), share)
    with pytest.raises(SourceError, match=r"clip\.mp4: can't be read as a video: "):
        probe(path)


def test_a_truncated_mp4_says_what_is_missing(tmp_path: Path) -> None:
    path = cut(write_clip(tmp_path / "clip.mp4", grey_steps(20), movflags="faststart"), 0.8)
    with pytest.raises(SourceError, match=r"it is cut short: it should hold [\d,]+ bytes and holds [\d,]+"):
        probe(path)


@pytest.mark.parametrize(("ending", "codec"), [("avi", "mjpeg"), ("avi", "mpeg4"), ("mpeg", "mpeg1video")])
@pytest.mark.parametrize("share", [0.3, 0.7])
def test_other_truncated_clips_are_refused(tmp_path: Path, ending: str, codec: str, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (30, 48, 64, 3), np.uint8)
    layout = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    path = cut(write_clip(tmp_path / f"clip.{ending}", noise, codec, layout), share)
    with pytest.raises(SourceError, match="cut short"):
        probe(path)


def test_a_truncated_gif_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.gif"
    noise = np.random.default_rng(0).integers(0, 256, (4, 48, 64), np.uint8)
    pictures = [Image.fromarray(frame) for frame in noise]
    pictures[0].save(path, save_all=True, append_images=pictures[1:])
    with pytest.raises(SourceError, match="cut short"):
        probe(cut(path, 0.9))


def test_damage_inside_a_clip_is_refused_not_concealed(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (20, 48, 64, 3), np.uint8)
    path = write_clip(tmp_path / "a.mp4", noise)
    data = bytearray(path.read_bytes())
    for at in range(len(data) // 4, 3 * len(data) // 4, len(data) // 16):  # a single place may by chance decode
        data[at : at + 300] = bytes(byte ^ 0xFF for byte in data[at : at + 300])
    path.write_bytes(data)
    with pytest.raises(SourceError, match=r"frame \d+ is damaged|Invalid data"):
        probe(path)


def test_a_clip_whose_frames_change_size_is_refused_by_frame(tmp_path: Path) -> None:
    path = tmp_path / "a.mpeg"
    first = write_clip(tmp_path / "b.mpeg", grey_steps(4, 48, 64), "mpeg2video").read_bytes()
    second = write_clip(tmp_path / "c.mpeg", grey_steps(4, 64, 96), "mpeg2video").read_bytes()
    path.write_bytes(first + second)
    with pytest.raises(SourceError, match=r"frame \d is 64x96 pixels, the first 48x64"):
        probe(path)


def test_a_text_file_named_mp4_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "notes.mp4"
    path.write_text("not a clip at all\n" * 100)
    with pytest.raises(SourceError, match=r"notes\.mp4: can't be read as a video"):
        probe(path)


def test_a_frame_past_the_end_is_refused(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", grey_steps(4))
    with pytest.raises(SourceError, match=r"it ends before frame 4 \(it has 4\)"):
        frames(path, [2, 4])


def test_real_clips_decode_to_the_manifests_counts(dev_data: Path) -> None:
    wrong, total = [], 0
    with (dev_data / "manifest.csv").open(newline="") as file:
        for line in csv.DictReader(file):
            if reader_of_file(dev_data / line["path"]) is VideoReader:
                facts = probe(dev_data / line["path"])
                total += facts.frames
                if facts != FileFacts(int(line["n_frames"]), int(line["height"]), int(line["width"])):
                    wrong.append((line["path"], facts))
    assert wrong == []
    assert total > 4000
