"""From stored bytes to uint8 pixels, and why an image cannot be used."""

from __future__ import annotations

import io
import warnings

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageSequence, UnidentifiedImageError

from orch_core.images.npz import Images

FORMATS = ("raw", "jpeg", "png", "webp")
"""How an image is stored; its place here is its code in `table.bin`. Others are decoded and stored raw."""
_KEPT_MODES = ("L", "RGB", "P", "1", "LA", "RGBA", "CMYK", "YCbCr")
_WIDE_MODES = ("I;16", "I;16B", "I;16L", "I", "F")
PERCENTILES = (0.5, 99.5)
"""Of intensities without a unit, mapped to 0 and 255 (Ma et al. 2024, MedSAM, Nat. Commun. 15:654)."""
MOST_SIDE = 2**16 - 1
JPEG_QUALITY = 90

warnings.filterwarnings(
    "ignore", category=Image.DecompressionBombWarning
)  # twice its limit is an error still


class BadImage(Exception):  # noqa: N818
    """An image that cannot be used, with the reason."""


def decode_stored(blob: bytes, form: str, shape: tuple[int, int, int]) -> Images:
    """Pixels uint8 [h, w, c] of a stored image of that shape; raises BadImage for bytes that are not one."""
    if form != "raw":
        return decode(blob)[0]
    if len(blob) != shape[0] * shape[1] * shape[2]:
        message = f"{len(blob)} bytes for {shape[0]} x {shape[1]} x {shape[2]} pixels"
        raise BadImage(message)
    return np.frombuffer(blob, np.uint8).reshape(shape)


def decode_pages(blob: bytes) -> list[Images]:
    """Pixels uint8 [h, w, c] of every page or frame of an image that has several, none for one that has not.

    Wide intensities of all pages are scaled alike. Raises BadImage with the reason.
    """
    if not blob.startswith((b"GIF8", b"II*", b"MM", b"RIFF", b"\x89PNG")):
        return []
    try:
        with Image.open(io.BytesIO(blob)) as image:
            if getattr(image, "n_frames", 1) < 2:
                return []
            pages = [page.copy() for page in ImageSequence.Iterator(image)]
    except Exception:  # noqa: BLE001 - `decode` finds the same damage and names it
        return []
    if all(page.mode in _WIDE_MODES for page in pages):
        values = [np.asarray(page, np.float64) for page in pages]
        bounds = intensity_bounds(np.concatenate([page.ravel() for page in values]))
        return [to_uint8(page, bounds)[..., None] for page in values]
    return [_pixels(page) for page in pages]


def is_turned(blob: bytes) -> bool:
    """Whether EXIF asks a viewer to turn or mirror the image (tag 274, Orientation, other than 1)."""
    if b"Exif" not in blob[:4096]:
        return False
    try:
        with Image.open(io.BytesIO(blob)) as image:
            return bool(image.getexif().get(0x0112, 1) != 1)
    except Exception:  # noqa: BLE001 - `decode` finds the same damage and names it
        return False


def intensity_bounds(values: NDArray[np.floating]) -> tuple[float, float]:
    """The intensities that become 0 and 255: PERCENTILES of the finite ones; raises BadImage without any."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        message = "no pixel is a finite number"
        raise BadImage(message)
    low, high = np.percentile(finite, PERCENTILES)
    return float(low), float(high)


def decode(blob: bytes) -> tuple[Images, str]:
    """Pixels uint8 [h, w, c] (c is 1 or 3) of an encoded image, and the format to keep it in (raw: these).

    What the bytes are counts, not what the file is called. Transparency is dropped, palettes are
    looked up, EXIF's orientation is ignored, wider intensities are scaled by PERCENTILES. Raises
    BadImage with the reason.
    """
    if not blob:
        message = "empty file"
        raise BadImage(message)
    try:
        with Image.open(io.BytesIO(blob)) as image:
            image.load()
            pixels = _pixels(image)
            form = (image.format or "").lower()
            kept = form in FORMATS and image.mode in _KEPT_MODES
    except UnidentifiedImageError as error:
        message = f"not an image: starts with {blob[:16]!r}"
        raise BadImage(message) from error
    except BadImage:
        raise
    except Exception as error:  # damaged bytes raise whatever a decoder trips on
        words = " ".join(str(error).split()) or type(error).__name__
        message = f"truncated: {words}" if "truncat" in words.lower() else f"cannot be decoded: {words}"
        raise BadImage(message) from error
    if max(pixels.shape[:2]) > MOST_SIDE:
        message = f"{pixels.shape[0]} x {pixels.shape[1]} pixels: a side of more than {MOST_SIDE:,}"
        raise BadImage(message)
    return pixels, form if kept else "raw"


def _pixels(image: Image.Image) -> Images:
    if image.mode in _WIDE_MODES:
        return to_uint8(np.asarray(image, np.float64))[..., None]
    grey = image.mode in {"L", "1", "LA"}
    plain = image.convert("L" if grey else "RGB") if image.mode not in {"L", "RGB"} else image
    array = np.asarray(plain, np.uint8)
    return array.reshape(*array.shape[:2], -1)


def to_uint8(values: NDArray[np.floating], window: tuple[float, float] | None = None) -> Images:
    """Intensities scaled to 0..255 between the bounds of `window`, or else between their own PERCENTILES."""
    low, high = window or intensity_bounds(values)
    scaled = (np.nan_to_num(values, nan=low) - low) * (255 / (high - low or 1))
    pixels: Images = np.clip(np.rint(scaled), 0, 255).astype(np.uint8)
    return pixels


def shrink(pixels: Images, side: int) -> Images:
    """Pixels with the shorter side reduced to `side`, ratio kept, by an antialiased triangle filter."""
    height, width = pixels.shape[:2]
    scale = side / min(height, width)
    if scale >= 1:
        return pixels
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    image = Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels)
    array = np.asarray(image.resize(size, Image.Resampling.BILINEAR), np.uint8)
    return array.reshape(*array.shape[:2], -1)


def difference_hash(pixels: Images) -> int:
    """A 64-bit difference hash (dHash; Krawetz 2013, "Kind of Like That"), equal for images that look alike.

    Luma averaged to 8 rows of 9, each bit whether a value is above its left neighbour: blind to size,
    compression and contrast. 0 for pixels without structure at that size.
    """
    image = (
        Image.fromarray(pixels.squeeze(2)) if pixels.shape[2] == 1 else Image.fromarray(pixels).convert("L")
    )
    small = np.asarray(image.resize((9, 8), Image.Resampling.BOX), np.int16)
    return int.from_bytes(np.packbits(small[:, 1:] > small[:, :-1]).tobytes(), "big")


def encode_jpeg(pixels: Images) -> bytes:
    """A JPEG of quality 90 of pixels [h, w, c]."""
    buffer = io.BytesIO()
    Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels).save(
        buffer, "JPEG", quality=JPEG_QUALITY
    )
    return buffer.getvalue()
