"""Image folders: one subfolder a class."""

import os
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import Dataset

from whence._errors import DataError
from whence.datasets._pixels import Mode, Size, check_sizes, read_pixels
from whence.datasets.images import picture

_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})


@final
class ImageFolder(Dataset[tuple[Tensor, int]]):
    """Images in files, read when asked for; made by `load_image_folder`.

    An item is a float32 tensor (channels, height, width) from 0 to 1, and its class.

    Args:
        files: The images, in order.
        labels: The class of each.
        class_names: What each class is called.
        mode: ``"RGB"`` for three channels, ``"L"`` for grey.
        size: (height, width) to resize to; None keeps their own.
    """

    def __init__(
        self, files: list[Path], labels: list[int], class_names: tuple[str, ...], *, mode: Mode, size: Size | None
    ) -> None:
        self.files = files
        self.labels = labels
        self.class_names = class_names
        self.mode = mode
        self.size = size

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self._pixels(index).to(torch.float32).div_(255.0), self.labels[index]

    def all_labels(self) -> Tensor:
        """Return every label, in order, without reading an image."""
        return torch.tensor(self.labels, dtype=torch.int64)

    def display(self, index: int) -> np.ndarray[Any, np.dtype[np.uint8]] | None:
        """Return one image as a picture: bytes (height, width) or (height, width, 3)."""
        return picture(self._pixels(index))

    def _pixels(self, index: int) -> Tensor:
        file = self.files[index]
        return read_pixels(file, mode=self.mode, size=self.size, name=str(file))


def load_image_folder(folder: str | os.PathLike[str], *, mode: Mode = "RGB", size: Size | None = None) -> ImageFolder:
    """Read a folder of images with one subfolder a class, in the order of their names.

    Args:
        folder: Holds one folder a class; a class's images may lie in folders of its own.
        mode: ``"RGB"`` for three channels, ``"L"`` for grey.
        size: (height, width) to resize to; needed when the images differ in size.

    Raises:
        DataError: If there is no image, a class is empty, or the images differ in size and ``size`` is not given.
    """
    root = Path(folder)
    classes = sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    if not classes:
        raise DataError(f"{root} has no subfolders. An image folder holds one subfolder of images for each class.")
    files: list[Path] = []
    labels: list[int] = []
    for label, place in enumerate(classes):
        found = sorted(path for path in place.rglob("*") if path.suffix.lower() in _SUFFIXES and path.is_file())
        if not found:
            raise DataError(f"{place} has no images ({', '.join(sorted(_SUFFIXES))}). Fill it, or remove the folder.")
        files += found
        labels += [label] * len(found)
    if size is None:
        check_sizes([_size(file) for file in files], [str(file) for file in files])
    return ImageFolder(files, labels, tuple(place.name for place in classes), mode=mode, size=size)


def _size(file: Path) -> Size:
    """Return an image's (height, width) from its header."""
    try:
        with Image.open(file) as image:
            return image.height, image.width
    except (UnidentifiedImageError, OSError) as error:
        raise DataError(f"{file} is not an image that can be read: {error}. Repair it or take it out.") from error
