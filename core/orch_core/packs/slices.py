"""DICOM files and NIfTI volumes as 8-bit slices, by pydicom and nibabel (the extra `data`).

Intensities become 0..255 by a window. CT (Hounsfield units): level 40, width 400, the usual one for soft tissue; anything
else: percentiles 0.5 and 99.5 of the volume or file, as Ma et al. 2024 (MedSAM, Nature Communications 15:654, Methods) do
for both. A source's own `window` goes before either; a DICOM that is not CT and stores a window gets that one
(DICOM PS3.3 C.11.2).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from orch_core.errors import OrchError
from orch_core.images.npz import Images
from orch_core.packs.decode import PERCENTILES, to_uint8
from orch_core.packs.gather import EMPTY, Item

if TYPE_CHECKING:
    from numpy.typing import NDArray

SOFT_TISSUE = (40.0, 400.0)
"""Level and width in Hounsfield units."""
EXTRA = "pip install 'orch-scaling[data]'"
Window = tuple[float, float]


def looks_like_dicom(path: Path) -> bool:
    """Whether a file has DICOM's mark after its preamble (PS3.10, 7.1)."""
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def dicom_items(path: Path, name: str, modality: str, group: str, window: Window | None) -> Iterator[Item]:
    """The frames of a DICOM file; group: its PatientID unless given; modality: its tag, lower case, unless given."""
    try:
        import pydicom
        from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut
    except ImportError as error:
        message = f"reading {path} needs pydicom, which is not installed"
        raise OrchError(message, hint=EXTRA) from error
    try:
        data = pydicom.dcmread(path)
        array = np.asarray(data.pixel_array)
        tag = str(data.get("Modality", "")).lower()
        if int(data.get("SamplesPerPixel", 1)) == 1:
            array = apply_modality_lut(array, data).astype(np.float64)
            if window is None and tag != "ct" and ("WindowWidth" in data or "VOILUTSequence" in data):
                array = np.asarray(apply_voi_lut(array, data), np.float64)
                bounds = (float(array.min()), float(array.max()))
            else:
                bounds = _bounds(array, tag, window)
            array = to_uint8(array, bounds)[..., None]
            if data.get("PhotometricInterpretation") == "MONOCHROME1":
                array = 255 - array
        elif array.dtype != np.uint8:
            array = to_uint8(array.astype(np.float64))
        group = group or str(data.get("PatientID", "") or data.get("StudyInstanceUID", ""))
    except Exception as error:  # noqa: BLE001 - damaged files raise whatever pydicom trips on
        yield Item(name=name, problem=f"not a readable DICOM image: {' '.join(str(error).split())[:200]}")
        return
    frames = array if array.ndim == 4 else array[None]
    for number, frame in enumerate(frames):
        label = f"{name}#{number}" if len(frames) > 1 else name
        yield _item(label, frame, modality or tag, group)


def nifti_items(path: Path, name: str, modality: str, group: str, window: Window | None) -> Iterator[Item]:
    """The axial slices of a NIfTI volume (of each, where there are several); group: the file unless given."""
    try:
        import nibabel
    except ImportError as error:
        message = f"reading {path} needs nibabel, which is not installed"
        raise OrchError(message, hint=EXTRA) from error
    try:
        funcs: Any = nibabel  # its functions are partly untyped
        image = funcs.as_closest_canonical(funcs.load(path))
        volume = np.asarray(image.dataobj, np.float32)
        volume = volume.reshape(*volume.shape[:3], -1) if volume.ndim > 2 else volume[..., None, None]
        bounds = _bounds(volume, modality, window)
    except Exception as error:  # noqa: BLE001 - damaged files raise whatever nibabel trips on
        yield Item(name=name, problem=f"not a readable NIfTI volume: {' '.join(str(error).split())[:200]}")
        return
    for moment in range(volume.shape[3]):
        for level in range(volume.shape[2]):
            frame = to_uint8(np.rot90(volume[:, :, level, moment]).astype(np.float64), bounds)
            label = f"{name}#{level}" if volume.shape[3] == 1 else f"{name}#{moment}.{level}"
            yield _item(label, frame[..., None], modality, group or name)


def _bounds(values: NDArray[np.floating], modality: str, window: Window | None) -> tuple[float, float]:
    """Intensities that become 0 and 255."""
    if window is None and modality.lower() == "ct":
        window = SOFT_TISSUE
    if window:
        level, width = window
        return level - width / 2, level + width / 2
    finite = values[np.isfinite(values)]
    low, high = np.percentile(finite, PERCENTILES)
    return float(low), float(high)


def _item(name: str, frame: Images, modality: str, group: str) -> Item:
    if frame.min() == frame.max():
        return Item(name=name, problem=EMPTY)
    return Item(name=name, pixels=np.ascontiguousarray(frame), modality=modality, group=group)
