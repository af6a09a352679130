"""The model that a server answers with: loaded once, with a session for each user's memory and one for nobody's."""

from __future__ import annotations

import re
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ltm.backbone import Backbone, load_backbone
from ltm.bank import Bank
from ltm.errors import LtmError
from ltm.methods import method_class
from ltm.methods.opening import open_method
from ltm.methods.registry import create_method
from ltm.notes.encoder import Encoder, installed_encoder, load_encoder
from ltm.serve.embedder import PooledStates
from ltm.serve.grammar import Grammars
from ltm.text.generation import end_tokens
from ltm.text.means import Means
from ltm.text.session import Session
from ltm.text.text_session import TextSession

if TYPE_CHECKING:
    from ltm.serve.settings import ServeSettings

AnySession = Session | TextSession


class ServedModel:
    """A backbone with the method that remembers.

    method: one that keeps a bank, one of text, or None: no memory. encoder: what finds passages by meaning, as
    `Session` takes it. Raises LtmError for a method that neither keeps a bank nor speaks text.

    >>> model = ServedModel(load_backbone("tiny-llama"), create_method("memorizing", backbone))  # doctest: +SKIP
    >>> model.session(directory).keep([{"role": "user", "content": "My cat is Tom."}], "turn 1")  # doctest: +SKIP
    """

    def __init__(self, backbone: Backbone, method: Any = None, encoder: str | None = "auto"):
        self.backbone, self.method, self.encoder = backbone, method, encoder
        self.has_memory = method is not None
        if self.has_memory and method.speaks == "tokens" and not method.keeps_bank:
            raise LtmError(f"method {method.name} keeps no bank; serve one that does, such as longmem, or text, or off")
        self.plain: AnySession = self._without_memory()
        self.tokenizer: Any = backbone.tokenizer
        if self.tokenizer is None:
            raise LtmError(f"backbone {backbone.name} has no tokenizer, so it can answer nobody; take one that has")

    @classmethod
    def load(cls, settings: ServeSettings) -> ServedModel:
        """What settings name; LtmError for what cannot be had."""
        name = settings.method
        chosen: Any = method_class(name)
        backbone = load_backbone(settings.model, device=settings.device)
        if settings.memory == "off":
            return cls(backbone)
        if chosen.speaks == "text":
            return cls(backbone, chosen.open(chosen.config_class(), Means(backbone)))
        return cls(backbone, open_method(name, backbone, settings.sidenet))

    @property
    def name(self) -> str:
        """By which clients ask for it."""
        return Path(self.backbone.name).name

    @property
    def memory(self) -> str:
        """What stands behind the name and a colon."""
        return "off" if not self.has_memory else "text" if self.method.speaks == "text" else self.method.name

    @property
    def place(self) -> str:
        """The folder, in each user's directory, of the memory that this model makes: another model's is another."""
        return re.sub(r"[^A-Za-z0-9._-]+", "-", f"{self.memory}-{self.name}")

    @cached_property
    def grammars(self) -> Grammars:
        """What holds answers to a format."""
        return Grammars(self.tokenizer, end_tokens(self.backbone.model, self.tokenizer))

    @cached_property
    def embedder(self) -> Encoder:
        """What makes vectors of texts for clients: what finds passages by meaning, or else the backbone's states."""
        if self.has_memory and self.method.speaks == "text":
            return self.method.means.encoder
        name = installed_encoder() if self.encoder == "auto" else self.encoder
        return PooledStates(self.backbone) if name is None else load_encoder(name)

    def session(self, path: Path) -> AnySession:
        """A session on the memory in a directory, made where there is none."""
        if self.method.speaks == "text":
            return TextSession(self.method, path)
        bank = self._bank(path)
        return Session(self.method, memory=self.method.memory_in(bank), path=path, encoder=self.encoder)

    def _bank(self, path: Path) -> Bank:
        if not Bank.exists(path):
            return self.method.new_bank(1)
        return Bank.load(path, fingerprint=self.backbone.fingerprint, device=self.backbone.device)

    def _without_memory(self) -> AnySession:
        """What answers where nobody's memory may be read."""
        if self.method is None:
            return Session(create_method("full", self.backbone), encoder=None)
        if self.method.speaks == "text":
            return TextSession(self.method)
        return Session(self.method, encoder=None)
