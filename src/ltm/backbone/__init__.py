"""The frozen model that everything else leans on: loading, one uniform view of its parts, its fingerprint."""

from ltm.backbone.fingerprint import Fingerprint
from ltm.backbone.loading import Backbone, builtin_names, load_backbone
from ltm.backbone.tiny import TINY_ARCHITECTURES
from ltm.backbone.view import BackboneView

__all__ = ["TINY_ARCHITECTURES", "Backbone", "BackboneView", "Fingerprint", "builtin_names", "load_backbone"]
