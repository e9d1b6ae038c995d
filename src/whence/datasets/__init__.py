"""Data, in one form: `as_examples` takes what the user has; the loaders read what lies in files."""

from whence.datasets.augmented import Augmented
from whence.datasets.digits import load_digits
from whence.datasets.examples import Examples, as_examples, call_model
from whence.datasets.folders import ImageFolder, load_image_folder
from whence.datasets.images import Images
from whence.datasets.mnist import load_mnist
from whence.datasets.parquet import load_parquet

__all__ = (
    "Augmented",
    "Examples",
    "ImageFolder",
    "Images",
    "as_examples",
    "call_model",
    "load_digits",
    "load_image_folder",
    "load_mnist",
    "load_parquet",
)
