"""One HTML page that shows why a model answers as it does, and the demonstration that writes one."""

from whence.report.alike import LikenessMap, MapSettings, likeness_map
from whence.report.demo import Demonstration, demonstrate
from whence.report.gallery import Gallery, gallery, write_gallery
from whence.report.inverting import InvariantSettings, study_invariants
from whence.report.likeness import class_map, error_map, extremes_sheet, similarity_map
from whence.report.page import write_report
from whence.report.regions import RegionMaps, helpful_pairs, map_pairs
from whence.report.studying import save_study, study_run
from whence.report.training import Curves, curves

__all__ = [
    "Curves",
    "Demonstration",
    "Gallery",
    "InvariantSettings",
    "LikenessMap",
    "MapSettings",
    "RegionMaps",
    "class_map",
    "curves",
    "demonstrate",
    "error_map",
    "extremes_sheet",
    "gallery",
    "helpful_pairs",
    "likeness_map",
    "map_pairs",
    "save_study",
    "similarity_map",
    "study_invariants",
    "study_run",
    "write_gallery",
    "write_report",
]
