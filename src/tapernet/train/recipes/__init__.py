"""Recipes: how one network is trained for many budgets. A new one is one file and one line here."""

from tapernet.train.recipes.base import Recipe as Recipe
from tapernet.train.recipes.base import Stage as Stage
from tapernet.train.recipes.fine_tune import FineTune as FineTune
from tapernet.train.recipes.idp import IDP as IDP
from tapernet.train.recipes.mp_idp import MPIDP as MPIDP
from tapernet.train.recipes.r_tesla import RTESLA as RTESLA
from tapernet.train.recipes.slimmable import Slimmable as Slimmable
from tapernet.train.recipes.tesla import TESLA as TESLA
