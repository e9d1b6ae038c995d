"""Region maps: which parts of training inputs mattered for a target."""

from whence.regions.activations import layer_map
from whence.regions.baselines import grad_cam, integrated_gradients
from whence.regions.control import own_saliency
from whence.regions.engines import Difference, DoubleBackward, Engine, Forward
from whence.regions.maps import region_map
from whence.regions.pairs import Pairs, as_pairs, top_pairs
from whence.regions.pictures import overlay, side_by_side
from whence.regions.recipe import DEFAULT, PAPER, SHARED, AuditTerm, Gradient, GradientInput, Integrated, Map, Recipe
from whence.regions.sheets import draw_maps
from whence.regions.storage import load_maps, save_maps

__all__ = (
    "DEFAULT",
    "PAPER",
    "SHARED",
    "AuditTerm",
    "Difference",
    "DoubleBackward",
    "Engine",
    "Forward",
    "Gradient",
    "GradientInput",
    "Integrated",
    "Map",
    "Pairs",
    "Recipe",
    "as_pairs",
    "draw_maps",
    "grad_cam",
    "integrated_gradients",
    "layer_map",
    "load_maps",
    "overlay",
    "own_saliency",
    "region_map",
    "save_maps",
    "side_by_side",
    "top_pairs",
)
