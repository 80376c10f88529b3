"""One trained network, every compute budget.

Incomplete dot products trained by TESLA, and early termination of multiply-accumulates, for PyTorch.
"""

from tapernet import zoo
from tapernet.budget import TEN_BUDGETS
from tapernet.cascade import Cascade, CascadeReport, calibrate_cascade
from tapernet.convert.calibrate import calibrate
from tapernet.convert.export import export
from tapernet.convert.extract import extract
from tapernet.convert.taper import taper
from tapernet.convert.terminate import terminate
from tapernet.data import ImageData, Splits, load_data
from tapernet.engine import Engine, compile
from tapernet.measure.cam import ActivationMaps, activation_maps
from tapernet.measure.cam_grid import draw_maps
from tapernet.measure.curve import Curve, Point, evaluate
from tapernet.measure.joint import JointPoint, JointTable, evaluate_joint
from tapernet.measure.mac_maps import mac_image, mac_maps, mac_shares
from tapernet.measure.macs import count_parameters, layer_macs, total_macs
from tapernet.measure.termination import by_iteration, count_termination, measure_inputs
from tapernet.nn.check import Check
from tapernet.nn.learning import learning_thresholds
from tapernet.nn.net import TaperedNet
from tapernet.nn.penalty import estimating_macs, mac_penalty
from tapernet.placement import place_checks
from tapernet.placement.layer_time import time_weights
from tapernet.prune import prune_filters
from tapernet.saving import InputSpec, load, save
from tapernet.search import SearchResult, search_budget
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
    "ActivationMaps",
    "Cascade",
    "CascadeReport",
    "Check",
    "Curve",
    "Engine",
    "FineTune",
    "History",
    "ImageData",
    "InputSpec",
    "JointPoint",
    "JointTable",
    "Point",
    "Recipe",
    "SearchResult",
    "Settings",
    "Slimmable",
    "Splits",
    "TaperedNet",
    "activation_maps",
    "by_iteration",
    "calibrate",
    "calibrate_cascade",
    "compile",
    "count_parameters",
    "count_termination",
    "draw_maps",
    "estimating_macs",
    "evaluate",
    "evaluate_joint",
    "export",
    "extract",
    "fit",
    "layer_macs",
    "learning_thresholds",
    "load",
    "load_data",
    "mac_image",
    "mac_maps",
    "mac_penalty",
    "mac_shares",
    "measure_inputs",
    "place_checks",
    "prune_filters",
    "save",
    "search_budget",
    "taper",
    "terminate",
    "time_weights",
    "total_macs",
    "zoo",
]
