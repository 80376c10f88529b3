"""Labelled images as tensors in memory: load them, split them, take batches of them, augment the batches.

A network of this library trains on slices of one tensor: on small images a DataLoader costs more than the step itself.
"""

from tapernet.data.augment import AUGMENTATIONS, augment
from tapernet.data.images import ImageData, Splits
from tapernet.data.load import load_data
from tapernet.data.order import batches

__all__ = ["AUGMENTATIONS", "ImageData", "Splits", "augment", "batches", "load_data"]
