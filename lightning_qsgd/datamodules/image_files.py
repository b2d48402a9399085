"""Find and decode images, and resize them. An image is read completely or refused.

Shapes: H, W height and width; C channels, 1 (grey) or 3 (red, green, blue).
"""

import warnings
from pathlib import Path

import numpy as np
from lightning_utilities.core.rank_zero import rank_zero_warn

from lightning_qsgd.datamodules.rows import first_three

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP")
_IGNORED = ("thumbs.db", "desktop.ini", "__macosx")


def is_hidden(path: Path) -> bool:
    """Whether a file or folder is one that systems write, such as .DS_Store, ._a.png, Thumbs.db or __MACOSX."""
    return path.name.startswith(".") or path.name.lower() in _IGNORED


def images_in(folder: Path) -> list[Path]:
    """The images in a folder and its folders, sorted by path. It warns about files that are none by their names."""
    found, other = [], []
    for path in sorted(folder.rglob("*"), key=lambda path: path.relative_to(folder).parts):
        if any(is_hidden(part) for part in (path, *path.parents) if part.is_relative_to(folder) and part != folder):
            continue
        if path.is_file():
            (found if path.suffix.lower() in SUFFIXES else other).append(path)
    if other:
        rank_zero_warn(
            f"{folder}: {len(other)} files are not read: {first_three(path.name for path in other)}; images are "
            f"{', '.join(SUFFIXES)}"
        )
    return found


def class_folders(folder: Path) -> dict[str, Path]:
    """The folder of each class, by its name.

    Raises:
        ValueError: if images lie beside these folders, if there are fewer than two, or if they are splits.
    """
    check_is_folder(folder)
    inside = sorted(path for path in folder.iterdir() if not is_hidden(path))
    found = {path.name: path for path in inside if path.is_dir()}
    if beside := [path.name for path in inside if path.is_file() and path.suffix.lower() in SUFFIXES]:
        raise ValueError(
            f"{folder} holds images beside folders: {first_three(beside)}; it must have a folder for each class, and "
            "each image lies in one of them"
        )
    if not found:
        raise ValueError(f"{folder} has no folders; it must have one for each class, with its images")
    if {name.lower() for name in found} <= {"train", "val", "valid", "validation", "test", "train_set", "test_set"}:
        raise ValueError(
            f"{folder} holds splits, not classes: {first_three(found)}; name them by train_folder: {folder}/"
            f"{next(iter(found))} and so on"
        )
    return found


def check_is_folder(folder: Path) -> None:
    """Check that a path names a folder.

    Raises:
        FileNotFoundError: if it does not exist.
        NotADirectoryError: for a file.
    """
    if not folder.exists():
        raise FileNotFoundError(f"Folder not found: {folder}")
    if not folder.is_dir():
        raise NotADirectoryError(
            f"{folder} is a file; name a folder with images, or an .npz file by train_file and so on"
        )


def decoded(path: Path, background: int | None) -> np.ndarray:
    """The pixels of an image, upright as its EXIF data say.

    Args:
        path: the image's file.
        background: grey value in [0, 255] behind transparent pixels. None refuses them.

    Returns:
        (H, W, C): uint8, or float32 in [0, 1] for 16-bit grey. Palettes become the colours that they name. A palette of
        greys has one channel.

    Raises:
        ValueError: if the file is no image, broken, animated, transparent, or has pixels of another kind.
    """
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(path, formats=_FORMATS)
            if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":  # a JPEG with a second view
                raise _Refused(f"holds {getattr(image, 'n_frames', 1)} pictures; save the one that you mean")
            image.load()
            image = ImageOps.exif_transpose(image)
    except _Refused as refused:
        raise ValueError(f"{path} {refused}") from None
    except Exception as error:  # Pillow's readers raise OSError, SyntaxError, ValueError, struct.error and others
        reason = str(error).replace(f"'{path}'", "it").replace(str(path), "it")
        raise ValueError(f"{path} is not an image that can be read: {reason}; replace or remove it") from error
    if image.mode.startswith("I;16"):  # Pillow's conversion to 8 bits would clip it at 255
        return (np.asarray(image).astype(np.float32) / np.float32(65535))[..., None]
    if image.mode in ("I", "F", "LAB", "HSV"):
        raise ValueError(f"{path} has pixels of Pillow's mode {image.mode}; save it with 8 bits, or 16-bit grey")
    grey = image.mode in ("1", "L", "LA")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if background is not None:
            behind = Image.new("RGBA", image.size, (background, background, background, 255))
            image = Image.alpha_composite(behind, image)
        elif image.getchannel("A").getextrema() != (255, 255):
            raise ValueError(
                f"{path} is transparent in places; set background, the grey value behind it: 255 for white, 0 for black"
            )
    pixels = np.asarray(image.convert("RGB"))
    if grey or (image.mode == "P" and (pixels == pixels[..., :1]).all()):
        pixels = pixels[..., :1]
    return pixels


def resized(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """An image (H, W, C), uint8 or float32, resized to another (H, W): bilinear, averaged where it shrinks."""
    from PIL import Image

    if pixels.shape[:2] == size:
        return pixels
    channels = [Image.fromarray(np.ascontiguousarray(pixels[..., i])) for i in range(pixels.shape[2])]
    height, width = size
    resize = [channel.resize((width, height), Image.Resampling.BILINEAR) for channel in channels]
    return np.stack([np.asarray(channel) for channel in resize], -1)


def greyed(pixels: np.ndarray) -> np.ndarray:
    """Images (..., C) with one channel: 0.299 red + 0.587 green + 0.114 blue (ITU-R 601), rounded for uint8."""
    if pixels.shape[-1] == 1:
        return pixels
    grey = pixels @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    return (np.rint(grey) if pixels.dtype == np.uint8 else grey).astype(pixels.dtype)[..., None]


class _Refused(Exception):
    """An image that can be read but means several things."""
