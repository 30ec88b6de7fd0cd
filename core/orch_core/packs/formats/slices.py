"""DICOM files and NIfTI volumes as 8-bit slices, by pydicom and nibabel (the extra `data`).

Intensities become 0..255 by a window. CT (Hounsfield units): level 40, width 400, the usual one for soft
tissue; anything else: percentiles 0.5 and 99.5 of the volume or file, as Ma et al. 2024 (MedSAM, Nature
Communications 15:654, Methods) do for both. A source's own `window` goes before either; a DICOM that is not
CT and stores a window gets that one (DICOM PS3.3 C.11.2).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from orch_core.errors import OrchError
from orch_core.images.npz import Images
from orch_core.packs.decode import intensity_bounds, to_uint8
from orch_core.packs.gather import EMPTY, NO_PIXELS, Item

if TYPE_CHECKING:
    from numpy.typing import NDArray

SOFT_TISSUE = (40.0, 400.0)
"""Level and width in Hounsfield units."""
BAD_WINDOW = "its stored window cannot be used, so percentiles are"
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
    """The frames of a DICOM file; unless given, group: its PatientID; modality: its tag in lower case."""
    try:
        import pydicom
        from pydicom.errors import InvalidDicomError
    except ImportError as error:
        message = f"reading {path} needs pydicom, which is not installed"
        raise OrchError(message, hint=EXTRA) from error
    problem = note = ""
    try:
        data = pydicom.dcmread(path)
        if "PixelData" not in data and "FloatPixelData" not in data and "DoubleFloatPixelData" not in data:
            problem = NO_PIXELS
        else:
            array, note = _eight_bits(data, window)
    except InvalidDicomError:
        problem = "not a readable DICOM image: it lacks DICOM's header (PS3.10, 7.1)"
    except Exception as error:  # noqa: BLE001 - damaged files raise whatever pydicom trips on
        problem = f"not a readable DICOM image: {' '.join(str(error).split())[:200]}"
    if problem:
        yield Item(name=name, problem=problem)
        return
    tag = str(data.get("Modality", "")).lower()
    group = group or str(data.get("PatientID", "") or data.get("StudyInstanceUID", ""))
    frames = array if array.ndim == 4 else array[None]
    for number, frame in enumerate(frames):
        label = f"{name}#{number}" if len(frames) > 1 else name
        yield replace(_item(label, frame, modality or tag, group), note=note)


def _eight_bits(data: Any, window: Window | None) -> tuple[Images, str]:
    """Pixels uint8 [h, w, c] or [frames, h, w, c] of a dataset, and what to know about them."""
    from pydicom.pixels.processing import apply_color_lut

    array = np.asarray(data.pixel_array)
    if data.get("PhotometricInterpretation") == "PALETTE COLOR":
        colours = apply_color_lut(array, data)
        bits = data.RedPaletteColorLookupTableDescriptor[2]
        return (colours >> 8 if colours.dtype.itemsize > 1 and bits > 8 else colours).astype(np.uint8), ""
    if int(data.get("SamplesPerPixel", 1)) != 1:
        return (array if array.dtype == np.uint8 else to_uint8(array.astype(np.float64))), ""
    padding = _padding(array, data)
    values, bounds, note = _windowed(_calibrated(array, data), data, window, padding)
    pixels = to_uint8(np.where(padding, bounds[0], values), bounds)[..., None]
    return (255 - pixels if data.get("PhotometricInterpretation") == "MONOCHROME1" else pixels), note


def _padding(array: NDArray[Any], data: Any) -> NDArray[np.bool_]:
    """Where the array holds the value that fills the image's border (PS3.3, C.7.5.1.1.2), not the patient."""
    value = data.get("PixelPaddingValue")
    if value is None:
        return np.zeros(array.shape, bool)
    limit = data.get("PixelPaddingRangeLimit")
    ends = sorted((int(value), int(value if limit is None else limit)))
    found: NDArray[np.bool_] = (array >= ends[0]) & (array <= ends[1])
    return found if not found.all() else np.zeros(array.shape, bool)


def _calibrated(array: NDArray[Any], data: Any) -> NDArray[np.float64]:
    """Stored values in the modality's unit; an empty slope is 1, an empty intercept 0 (PS3.3, C.11.1)."""
    from pydicom.pixels.processing import apply_modality_lut

    for name, usual in (("RescaleSlope", 1), ("RescaleIntercept", 0)):
        if name in data and data.get(name) in (None, ""):
            setattr(data, name, usual)
    return np.asarray(apply_modality_lut(array, data), np.float64)


def _windowed(
    values: NDArray[np.float64], data: Any, window: Window | None, padding: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], tuple[float, float], str]:
    """Values, those that become 0 and 255, and notes: by the given window, the file's, or percentiles."""
    tag = str(data.get("Modality", "")).lower()
    if window is None and tag != "ct":
        try:
            stored = _stored_window(values, data)
        except Exception:  # noqa: BLE001 - a damaged window raises whatever pydicom trips on
            stored = None
        if stored:
            return *stored, ""
        if "VOILUTSequence" in data or _first(data.get("WindowWidth")) is not None:
            return values, _bounds(values[~padding], tag, None), BAD_WINDOW
    return values, _bounds(values[~padding], tag, window), ""


def _stored_window(
    values: NDArray[np.float64], data: Any
) -> tuple[NDArray[np.float64], tuple[float, float]] | None:
    """Values and those that become 0 and 255 by a file's look-up table or first window (PS3.3 C.11.2)."""
    from pydicom.pixels.processing import apply_voi

    if "VOILUTSequence" in data:
        bits = int(data.VOILUTSequence[0].LUTDescriptor[2])
        return np.asarray(apply_voi(values.astype(np.int64), data), np.float64), (0.0, 2.0**bits - 1)
    level, width = (_first(data.get(name)) for name in ("WindowCenter", "WindowWidth"))
    function = str(data.get("VOILUTFunction") or "LINEAR")
    if level is None or width is None or width <= (1 if function == "LINEAR" else 0):
        return None
    if function == "SIGMOID":
        return 1 / (1 + np.exp(-4 * (values - level) / width)), (0.0, 1.0)
    if function == "LINEAR":
        level, width = level - 0.5, width - 1
    return values, (level - width / 2, level + width / 2)


def _first(value: Any) -> float | None:
    """The first of the values of a DICOM element, None if it is empty."""
    if value is None or value == "" or (not isinstance(value, str | int | float) and not len(value)):
        return None
    return float(value if isinstance(value, str | int | float) else value[0])


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
        if image.get_data_dtype().names:
            yield Item(name=name, problem="not a readable NIfTI volume: it holds colours, not intensities")
            return
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
    return intensity_bounds(values)


def _item(name: str, frame: Images, modality: str, group: str) -> Item:
    if frame.min() == frame.max():
        return Item(name=name, problem=EMPTY)
    return Item(name=name, pixels=np.ascontiguousarray(frame), modality=modality, group=group)
