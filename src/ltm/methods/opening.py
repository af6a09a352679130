"""Methods ready to use: what needs training with the weights that were trained, given or shipped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ltm
from ltm.backbone import Backbone
from ltm.errors import LtmError
from ltm.methods.reader import Reader
from ltm.methods.registry import create_method, load_method, method_class


def open_method(name: str, backbone: Backbone, sidenet: str | Path | None = None, **options: Any) -> Reader:
    """A method ready to use: one that needs training with trained weights, any other as it is.

    sidenet: the directory that training wrote; None: what is shipped for this backbone. options: fields of the
    method's config. Raises LtmError where there are no weights.
    """
    chosen = method_class(name)
    if not chosen.card.needs_training:
        if sidenet is not None:
            raise LtmError(f"method {name} is not trained, so it takes no weights ({sidenet}); leave them out")
        return create_method(name, backbone, **options)
    path = shipped_weights(backbone.name, name) if sidenet is None else Path(sidenet)
    if path is None:
        raise LtmError(
            f"no trained weights of {name} are shipped for {backbone.name}; train some with `ltm train --method {name} "
            f"--backbone {backbone.name} --data FILES --out sidenet/` and pass --sidenet sidenet/"
        )
    method = load_method(backbone, path, **options)
    if sidenet is None:
        method.weights_path = None  # shipped: found again wherever this package is
    if method.name != name:
        raise LtmError(f"{path} holds weights of {method.name}, not of {name}; give --method {method.name}")
    return method


def shipped_weights(backbone_name: str, method: str) -> Path | None:
    """The directory of a method's weights that come with this package for a backbone; None where there are none."""
    path = Path(ltm.__file__).parent / "weights" / backbone_name / method
    is_plain = Path(backbone_name).name == backbone_name
    return path if is_plain and path.is_dir() else None
