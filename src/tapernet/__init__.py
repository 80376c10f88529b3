"""One trained network, every compute budget.

Incomplete dot products trained by TESLA, and early termination of multiply-accumulates, for PyTorch.
"""

from tapernet import zoo
from tapernet.budget import TEN_BUDGETS
from tapernet.convert.calibrate import calibrate
from tapernet.convert.extract import extract
from tapernet.convert.taper import taper
from tapernet.data import ImageData, Splits, load_data
from tapernet.measure.curve import Curve, Point, evaluate
from tapernet.measure.macs import count_parameters, layer_macs, total_macs
from tapernet.nn.net import TaperedNet
from tapernet.saving import InputSpec, load, save
from tapernet.train.loop import History, fit
from tapernet.train.recipes import IDP, MPIDP, RTESLA, TESLA, FineTune, Recipe, Slimmable
from tapernet.train.settings import Settings

__version__ = "0.1.0"
__all__ = [
    "IDP",
    "MPIDP",
    "RTESLA",
    "TEN_BUDGETS",
    "TESLA",
    "Curve",
    "FineTune",
    "History",
    "ImageData",
    "InputSpec",
    "Point",
    "Recipe",
    "Settings",
    "Slimmable",
    "Splits",
    "TaperedNet",
    "calibrate",
    "count_parameters",
    "evaluate",
    "extract",
    "fit",
    "layer_macs",
    "load",
    "load_data",
    "save",
    "taper",
    "total_macs",
    "zoo",
]
