"""Means: what methods are built from, each loaded only when it is asked for."""

from __future__ import annotations

from threading import RLock
from typing import TYPE_CHECKING

from ltm.errors import LtmError
from ltm.notes.encoder import DEFAULT_ENCODER, Encoder, load_encoder
from ltm.notes.writer import Writer

if TYPE_CHECKING:
    from ltm.backbone import Backbone

DEFAULT_BACKBONE = "smollm2-135m"


class Means:
    """A backbone, a writer and an encoder; each given as it is, or by a name by which it is loaded at first use.

    writer: "URL#MODEL" for a server's model; None: what a method's config says, else the backbone. encoder: a name for
    `load_encoder`; None: what the config says, else minilm. Raises LtmError at first use for what cannot be had.

    >>> means = Means(backbone="tiny-llama", encoder="hash")
    >>> means.encoder.name  # and no backbone was loaded
    'hash'
    """

    def __init__(
        self,
        backbone: Backbone | str = DEFAULT_BACKBONE,
        writer: Writer | str | None = None,
        encoder: Encoder | str | None = None,
        device: str | None = None,
    ):
        self._backbone, self._writer, self._encoder, self.device = backbone, writer, encoder, device
        self._whole: Means | None = None  # whose backbone these share
        self._lock = RLock()

    @property
    def backbone(self) -> Backbone:
        """The frozen model."""
        if self._whole is not None:
            return self._whole.backbone
        with self._lock:
            if isinstance(self._backbone, str):
                from ltm.backbone import load_backbone

                self._backbone = load_backbone(self._backbone, device=self.device)
            return self._backbone

    @property
    def writer(self) -> Writer:
        """What writes."""
        with self._lock:
            if self._writer is None or isinstance(self._writer, str):
                self._writer = self._new_writer(self._writer)
            return self._writer

    @property
    def encoder(self) -> Encoder:
        """What makes vectors of texts."""
        with self._lock:
            if self._encoder is None or isinstance(self._encoder, str):
                self._encoder = load_encoder(self._encoder or DEFAULT_ENCODER)
            return self._encoder

    def of(self, writer: str | None, encoder: str | None) -> Means:
        """These means, with the writer and encoder that a config names where none was given; one backbone for both."""
        made = Means(self._backbone, self._writer or writer, self._encoder or encoder, self.device)
        made._whole = self
        return made

    def _new_writer(self, name: str | None) -> Writer:
        if name is not None:
            url, _, model = name.partition("#")
            if not model:
                raise LtmError(f"writer {name} names no model; give URL#MODEL, or leave it out for the backbone")
            from ltm.notes.remote_writer import RemoteWriter

            return RemoteWriter(url, model)
        from ltm.methods.registry import create_method
        from ltm.text.backbone_writer import BackboneWriter

        return BackboneWriter(create_method("full", self.backbone))
