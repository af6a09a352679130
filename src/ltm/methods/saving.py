"""What a method has learned, saved beside its config and the backbone's identity; the backbone never is."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor, nn

import ltm
from ltm import stored_weights
from ltm.backbone import Backbone, Fingerprint
from ltm.backbone.builtin import BUILTIN_MODELS
from ltm.backbone.watched import Watched, digest_of
from ltm.configs import config_from_options
from ltm.errors import LtmError
from ltm.methods.method import Method

Self = TypeVar("Self", bound="TrainedMethod")


class TrainedMethod(Method, nn.Module):
    """A method with a backbone, and with weights of its own that can be trained and saved.

    backbone: from `load_backbone`; stays frozen and in eval mode.
    """

    weights_path: str | None = None
    """Where `from_pretrained` found what was trained."""

    def __init__(self, backbone: Backbone, config: Any):
        super().__init__()
        self.backbone = backbone
        self.model = backbone.model
        self.method_config = config
        self._writer = Watched[str]()

    def trainable_parameters(self) -> Iterator[nn.Parameter]:
        """What training changes; everything else is frozen."""
        return (parameter for parameter in self.parameters() if parameter.requires_grad)

    @property
    def num_trainable(self) -> int:
        return sum(parameter.numel() for parameter in self.trainable_parameters())

    def trained_state(self) -> dict[str, Tensor]:
        """The tensors that `save_pretrained` writes, by name."""
        return {}

    def load_trained_state(self, state: dict[str, Tensor], source: str) -> None:
        """Take in what `trained_state` gave."""
        if state:
            raise LtmError(f"{source} holds weights, but {self.name} has none")

    def writing_state(self) -> dict[str, Tensor]:
        """Of `trained_state` what shapes what is remembered; nothing where the backbone alone does."""
        return {}

    @property
    def writer_digest(self) -> str | None:
        """What a memory notes of who wrote it, beside the backbone's fingerprint: a digest of `writing_state`, taken
        anew where a look says that it has changed; None: of nothing trained."""
        state = self.writing_state()
        return self._writer.of([*state.items()], lambda: digest_of(state.values())) if state else None

    def save_pretrained(self, path: str | Path, dtype: str | None = None) -> None:
        """Write what was trained, its config and the backbone's identity to a directory; the bank is saved apart.

        dtype: 'float32' (default), 'bfloat16' or 'int8' (see `ltm.stored_weights`).
        """
        dtype = dtype or "float32"
        stored_weights.write_directory(path, self._record(dtype), stored_weights.pack(self.trained_state(), dtype))

    def _record(self, dtype: str) -> dict[str, Any]:
        """What is saved beside the weights."""
        return {
            "method": self.name,
            "ltm_version": ltm.__version__,
            "method_config": asdict(self.method_config),
            "backbone": self.backbone.name,
            "fingerprint": self.backbone.fingerprint.to_dict(),
            "dtype": dtype,
        }

    def state_dict(  # type: ignore[override]
        self, *args: Any, destination: Any = None, prefix: str = "", keep_vars: bool = False
    ) -> dict[str, Any]:
        """What `save_pretrained` writes, weights and record in tensors, and never the frozen backbone.

        So transformers' Trainer saves what it trained: its checkpoints are resumed by it, and loaded by `load_method`.
        """
        state = {**self.trained_state(), stored_weights.RECORD: stored_weights.record_tensor(self._record("float32"))}
        destination = {} if destination is None else destination
        destination.update({prefix + name: tensor for name, tensor in state.items()})
        return destination

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Take in what `state_dict` gave."""
        self.load_trained_state(
            {name: t for name, t in state_dict.items() if name != stored_weights.RECORD}, "the state dict"
        )
        return nn.modules.module._IncompatibleKeys([], [])

    @classmethod
    def from_pretrained(
        cls: type[Self], backbone: Backbone, path: str | Path, *, trainable: bool = False, **overrides: Any
    ) -> Self:
        """A saved method on the backbone it was trained for.

        trainable: keep the weights in float32 and let them be trained on; else they are frozen in the backbone's
        dtype. overrides: fields of the config to change (memory_size=..., local_window=...). Raises LtmError where
        the directory holds another method, its files are damaged, or the backbone is another one (says what differs).
        """
        saved = stored_weights.read_config(path)
        if saved["method"] != cls.name:
            raise LtmError(f"{path} holds a {saved['method']}, not a {cls.name}; load it with ltm.load_method")
        _check_backbone(backbone, saved, path)
        config = config_from_options(cls.config_class, {**saved["method_config"], **overrides}, f"method {cls.name}")
        method = cls(backbone, config)
        method.load_trained_state(stored_weights.read_tensors(path), str(path))
        method.weights_path = str(Path(path).resolve())
        if not trainable:
            method.to(backbone.dtype).requires_grad_(False).eval()
        return method


def _check_backbone(backbone: Backbone, saved: dict[str, Any], path: str | Path) -> None:
    """Refuse a backbone that the weights were not trained for; another dtype of the same weights is fine."""
    trained_for = Fingerprint.from_dict({**saved["fingerprint"], "dtype": backbone.fingerprint.dtype})
    differences = trained_for.differences(backbone.fingerprint)
    built_in = backbone.name == saved.get("backbone") and backbone.name in BUILTIN_MODELS and backbone.is_as_loaded
    if built_in and all(line.startswith("weights") for line in differences):
        if differences:  # a built-in name whose weights came from the hub instead of the package: rounded otherwise
            warnings.warn(f"{path} was trained for other copies of these weights: {differences[0]}", stacklevel=3)
        return
    if differences:
        raise LtmError(
            f"{path} was trained for {(saved.get('backbone') or 'another backbone')[:100]}: {'; '.join(differences)}; "
            "load that backbone, or train for this one with `ltm train`"
        )
