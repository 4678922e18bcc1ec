"""Clips as players show them: turned, whatever their metadata, and through what every player forgives."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import av
import numpy as np
import pytest
from PIL import Image

from tests.support.files.clips import write_clip
from tests.support.files.decoded import frames, probe
from usjepa.cache.errors import SourceError
from usjepa.cache.sources.base import FileFacts

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

ONE = 65536


def picture(count: int = 4, height: int = 48, width: int = 64) -> NDArray[np.uint8]:
    """Return [count, height, width, 3] with a bright corner of its own, so that no turn of it equals another."""
    image = np.full((count, height, width, 3), 40, np.uint8)
    image[:, :16, :24] = 220
    for number in range(count):
        image[number, 32:, 8 * number : 8 * number + 8] = 130
    return image


def read(path: Path) -> NDArray[np.uint8]:
    facts = probe(path)
    found = np.stack(frames(path, range(facts.frames)))
    assert FileFacts(*found.shape[:3]) == facts
    return found


def with_matrix(path: Path, matrix: tuple[int, int, int, int]) -> Path:
    """Write the upper left of the display matrix into a clip's only track header."""
    content = bytearray(path.read_bytes())
    place = content.index(b"tkhd") + 4 + 4 + 5 * 4 + 8 + 8
    a, b, c, d = matrix
    assert struct.unpack(">9i", content[place : place + 36])[:5] == (ONE, 0, 0, 0, ONE)
    content[place : place + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    return path


TURNS: dict[str, tuple[tuple[int, int, int, int], Any]] = {
    "upright": ((ONE, 0, 0, ONE), lambda f: f),
    "a quarter clockwise": ((0, ONE, -ONE, 0), lambda f: np.rot90(f, -1, (1, 2))),
    "a quarter the other way": ((0, -ONE, ONE, 0), lambda f: np.rot90(f, 1, (1, 2))),
    "half": ((-ONE, 0, 0, -ONE), lambda f: np.rot90(f, 2, (1, 2))),
    "mirrored": ((-ONE, 0, 0, ONE), lambda f: f[:, :, ::-1]),
    "upside down": ((ONE, 0, 0, -ONE), lambda f: f[:, ::-1]),
    "transposed": ((0, ONE, ONE, 0), lambda f: f.swapaxes(1, 2)),
    "transposed the other way": ((0, -ONE, -ONE, 0), lambda f: f[:, ::-1, ::-1].swapaxes(1, 2)),
}


@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize("ending", ["mp4", "mov"])
def test_a_display_matrix_is_applied(tmp_path: Path, turn: str, ending: str) -> None:
    matrix, expected = TURNS[turn]
    path = with_matrix(write_clip(tmp_path / f"a.{ending}", picture()), matrix)
    assert np.abs(read(path).astype(int) - expected(picture())).mean() < 3


@pytest.mark.parametrize("turn", ["upright", "a quarter clockwise", "a quarter the other way", "half"])
def test_a_matrix_is_applied_beside_side_data_that_has_no_name(tmp_path: Path, turn: str) -> None:
    """A TIFF's frames come with EXIF data, a kind that PyAV does not know."""
    matrix, turned = TURNS[turn]
    clip = write_clip(tmp_path / "a.mov", picture(), codec="tiff", layout="rgb24")
    assert np.array_equal(read(with_matrix(clip, matrix)), turned(picture()))


def test_a_codec_in_a_form_that_is_not_read_is_named(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "a.avi", picture(), codec="rawvideo", layout="rgb48le")
    with pytest.raises(SourceError, match="its codec rawvideo is stored in a form that is not read"):
        probe(clip)


def test_a_clip_to_be_shown_at_a_slant_is_refused(tmp_path: Path) -> None:
    slant = round(ONE * 0.7071)
    path = with_matrix(write_clip(tmp_path / "a.mp4", picture()), (slant, slant, -slant, slant))
    with pytest.raises(SourceError, match="no multiple of 90 degrees"):
        probe(path)


@pytest.mark.parametrize("title", ["Übung", "Герцог", "心臓"], ids=["latin", "cyrillic", "japanese"])
@pytest.mark.parametrize("ending", ["avi", "mp4", "mov", "gif"])
def test_metadata_may_be_in_any_encoding(tmp_path: Path, title: str, ending: str) -> None:
    encoding = {"Ü": "cp1252", "Г": "koi8-r", "心": "shift-jis"}[title[0]]
    raw = title.encode(encoding)
    path = tmp_path / f"a.{ending}"
    if ending == "gif":
        pictures = [Image.fromarray(frame) for frame in picture()]
        pictures[0].save(path, save_all=True, append_images=pictures[1:], comment=raw)
    else:
        placeholder = "t" * len(raw)
        codec = "mjpeg" if ending == "avi" else "libx264"
        with av.open(str(path), "w") as container:
            container.metadata["title"] = placeholder
            stream: Any = container.add_stream(codec, rate=25)
            stream.height, stream.width = picture().shape[1:3]
            stream.pix_fmt = "yuvj420p" if ending == "avi" else "yuv420p"
            stream.metadata["title"] = placeholder
            for frame in picture():
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode())
        content = path.read_bytes()
        assert placeholder.encode() in content
        path.write_bytes(content.replace(placeholder.encode(), raw))
    assert np.abs(read(path).astype(int) - picture()).mean() < 3


def encoded(path: Path, codec: str, layout: str, samples: NDArray[Any], given: str) -> Path:
    """Encode samples of a layout that has more than colours."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=25)
        stream.height, stream.width, stream.pix_fmt = samples.shape[1], samples.shape[2], layout
        for frame in samples:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format=given)))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize(
    ("ending", "codec", "layout"),
    [("avi", "rawvideo", "bgra"), ("mov", "qtrle", "argb"), ("mov", "png", "rgba"), ("avi", "ffv1", "bgra")],
)
def test_bytes_that_fill_up_a_word_are_no_transparency(tmp_path: Path, ending: str, codec: str, layout: str) -> None:
    rgba = np.concatenate([picture(), np.zeros((4, 48, 64, 1), np.uint8)], axis=-1)
    path = encoded(tmp_path / f"a.{ending}", codec, layout, rgba, "rgba")
    assert np.abs(read(path).astype(int) - picture()).max() <= 1


def test_a_raw_clip_has_no_transparency_whatever_its_fourth_byte_holds(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (4, 48, 64, 1), np.uint8)
    path = encoded(tmp_path / "a.avi", "rawvideo", "bgra", np.concatenate([picture(), noise], axis=-1), "rgba")
    assert np.array_equal(read(path), picture())


def test_what_is_transparent_in_part_is_laid_over_black(tmp_path: Path) -> None:
    rgba = np.concatenate([picture(), np.full((4, 48, 64, 1), 255, np.uint8)], axis=-1)
    rgba[:, 40:, :, 3] = 0
    found = read(encoded(tmp_path / "a.mov", "png", "rgba", rgba, "rgba"))
    assert np.array_equal(found[:, :40], picture()[:, :40])
    assert found[:, 40:].max() == 0


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
def test_words_of_16_bits_keep_the_upper_8_of_the_bits_in_use(tmp_path: Path, bits: int) -> None:
    words = np.linspace(0, 2**bits - 1, 3 * 48 * 64).reshape(3, 48, 64).astype(np.uint16)
    grey = encoded(tmp_path / "grey.avi", "ffv1", "gray16le", words, "gray16le")
    assert np.array_equal(read(grey), (words >> (bits - 8)).astype(np.uint8))
    colour = np.stack([words, words[:, ::-1], words], axis=-1)
    path = encoded(tmp_path / "colour.mov", "png", "rgb48be", colour, "rgb48le")
    assert np.array_equal(read(path), (colour >> (bits - 8)).astype(np.uint8))


def riff(path: Path, **sizes: int) -> Path:
    """Write sizes that lie into the heads of an AVI file."""
    content = bytearray(path.read_bytes())
    places = {"riff": 4, "movi": content.index(b"movi") - 4}
    for name, size in sizes.items():
        content[places[name] : places[name] + 4] = struct.pack("<I", size)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    "sizes",
    [
        {"riff": 0xFFFFFFFF},
        {"riff": 0},
        {"riff": 0xFFFFFFFF, "movi": 0xFFFFFFFF},
        {"riff": 0, "movi": 0},
        {"riff": 0x7FFFFFFF},
        {"riff": 0x7FFFFFFF, "movi": 0x7FFFFFF0},
        {"riff": 100},
    ],
    ids=str,
)
def test_an_avi_whose_lengths_were_never_filled_in_is_whole(tmp_path: Path, sizes: dict[str, int]) -> None:
    path = write_clip(tmp_path / "a.avi", picture(), "mjpeg", "yuvj444p")
    whole = read(path)
    assert np.array_equal(read(riff(path, **sizes)), whole)
    path.write_bytes(path.read_bytes() + b"\n\0tail")
    assert np.array_equal(read(path), whole)


@pytest.mark.parametrize("sizes", [{}, {"riff": 0xFFFFFFFF, "movi": 0xFFFFFFFF}, {"riff": 0, "movi": 0}], ids=str)
@pytest.mark.parametrize("share", [0.4, 0.7])
def test_such_an_avi_that_is_cut_is_still_refused(tmp_path: Path, sizes: dict[str, int], share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (20, 48, 64, 3), np.uint8)
    path = riff(write_clip(tmp_path / "a.avi", noise, "mjpeg", "yuvj420p"), **sizes)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(SourceError, match="cut short"):
        probe(path)


def test_an_avi_that_is_cut_between_two_frames_is_refused(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.avi", picture(), "mjpeg", "yuvj420p")
    content = path.read_bytes()
    last = content.rindex(b"00dc", 0, content.index(b"idx1"))
    path.write_bytes(content[:last])
    with pytest.raises(SourceError, match="cut short"):
        probe(path)


@pytest.mark.parametrize(
    "tail", [b"\n", b"\0" * 600, b"<?xpacket begin='' id='W5M0'?>;", b"\x21\xf9\x04", b";;", b"\x2c" * 20], ids=repr
)
def test_what_follows_the_end_of_a_gif_is_ignored(tmp_path: Path, tail: bytes) -> None:
    path = tmp_path / "a.gif"
    pictures = [Image.fromarray(frame) for frame in picture()]
    pictures[0].save(path, save_all=True, append_images=pictures[1:])
    whole = read(path)
    path.write_bytes(path.read_bytes() + tail)
    assert np.array_equal(read(path), whole)


def test_a_gif_whose_last_byte_alone_is_missing_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.gif"
    pictures = [Image.fromarray(frame) for frame in picture()]
    pictures[0].save(path, save_all=True, append_images=pictures[1:])
    whole = read(path)
    path.write_bytes(path.read_bytes().removesuffix(b";"))
    assert np.array_equal(read(path), whole)


@pytest.mark.parametrize(("name", "codec", "layout"), [("a.avi", "mjpeg", "yuvj420p"), ("a.mp4", "libx264", "yuv420p")])
def test_text_behind_a_whole_clip_is_ignored(tmp_path: Path, name: str, codec: str, layout: str) -> None:
    clip = write_clip(tmp_path / name, picture(), codec=codec, layout=layout)
    with clip.open("ab") as file:
        file.write(b"a page of a web server that was appended")
    assert probe(clip).frames == 4
