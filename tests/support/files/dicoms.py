"""DICOM files as scanners, archives and converters write them, made on the spot."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.filereader import read_file_meta_info
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import UID, ExplicitVRLittleEndian, UltrasoundMultiFrameImageStorage, generate_uid

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray


def echo(count: int = 3, height: int = 32, width: int = 48, seed: int = 0) -> NDArray[np.uint8]:
    """Return [count, height, width] grey frames that all differ and use the whole range."""
    ramp = np.linspace(0, 255, height * width).reshape(height, width)
    frames = [np.roll(ramp, (seed + 7 * number) % width, axis=1) for number in range(count)]
    return np.stack(frames).round().astype(np.uint8)


def header(pixels: NDArray[Any], photometric: str = "MONOCHROME2", syntax: str = ExplicitVRLittleEndian) -> Dataset:
    """Return a data set that describes frames [N, H, W] or [N, H, W, 3], with a name that must stay in the file."""
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = UID(syntax)
    data.file_meta.MediaStorageSOPClassUID = UltrasoundMultiFrameImageStorage
    data.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["usjepa"])
    data.SOPClassUID = UltrasoundMultiFrameImageStorage
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID
    data.PatientName, data.PatientID = "Doe^Jane", "12345"
    data.NumberOfFrames, data.Rows, data.Columns = pixels.shape[:3]
    data.SamplesPerPixel, data.PhotometricInterpretation = (3 if pixels.ndim == 4 else 1), photometric
    if pixels.ndim == 4:
        data.PlanarConfiguration = 0
    data.BitsAllocated = data.BitsStored = pixels.dtype.itemsize * 8
    data.HighBit = data.BitsStored - 1
    data.PixelRepresentation = int(pixels.dtype.kind == "i")
    return data


def save(path: Path, data: Dataset, stored: bytes | Sequence[bytes], **attributes: Any) -> Path:
    """Write a data set with its pixels: bytes as they lie in the file, or one stream per frame to encapsulate.

    An attribute of None is left out.
    """
    for name, value in attributes.items():
        if value is None:
            delattr(data, name)
        else:
            setattr(data, name, value)
    data.PixelData = stored if isinstance(stored, bytes) else encapsulate(list(stored), has_bot=False)
    if not isinstance(stored, bytes):
        data["PixelData"].is_undefined_length = True
        data["PixelData"].VR = "OB"
    elif data.BitsAllocated == 8 and data["PixelData"].VR != "OW":
        data["PixelData"].VR = "OB"
    data.save_as(path, enforce_file_format=True)
    return path


def claim(path: Path, syntax: str) -> Path:
    """Replace the transfer syntax in a file's head by one that lies; what follows the head stays as it is."""
    meta = read_file_meta_info(path)
    content = path.read_bytes()
    rest = content[128 + 4 + 12 + meta.FileMetaInformationGroupLength :]
    meta.TransferSyntaxUID = UID(syntax)
    head = io.BytesIO()
    write_file_meta_info(cast("Any", head), meta)
    path.write_bytes(content[:132] + head.getvalue() + rest)
    return path
