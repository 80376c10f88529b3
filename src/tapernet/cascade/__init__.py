"""Input-adaptive budgets: a small budget answers the images that it is sure of, and larger ones the others."""

from tapernet.cascade.report import CascadeLatency, CascadeReport
from tapernet.cascade.run import CONFIDENCES, Cascade
from tapernet.cascade.thresholds import calibrate_cascade

__all__ = ["CONFIDENCES", "Cascade", "CascadeLatency", "CascadeReport", "calibrate_cascade"]
