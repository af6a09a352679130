"""What a server is told: on the command line, in the environment (LTM_...), in a TOML file, in this order."""

from __future__ import annotations

import re
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from ltm.configs import DEFAULT_BACKBONE, DEFAULT_METHOD
from ltm.errors import ConfigError, LtmError, short_repr

MEMORIES = {"text": "rag", "off": "full"}
"""What --memory says for methods that are called otherwise."""
_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}
_SIZE = re.compile(r"(\d+(?:\.\d+)?) *([KMG]?B?)", re.IGNORECASE)
_SPAN = re.compile(r"(\d+) *([hdw])")
_HOURS = {"h": 1, "d": 24, "w": 168}


def num_bytes(value: Any) -> Any:
    """Bytes of "2GB", "512 MB" or 4096, in powers of 1,000 as everywhere in this library.

    >>> num_bytes("1.5 GB")
    1500000000
    """
    if not isinstance(value, str):
        return value
    found = _SIZE.fullmatch(value.strip())
    if found is None:
        raise ValueError("use bytes, or a number with kB, MB or GB, such as 2GB")
    unit = found[2].upper()
    return int(float(found[1]) * _UNITS[unit if unit in _UNITS else f"{unit}B"])


def time_span(value: Any) -> Any:
    """A time of "12h", "90d" or "8w"; "none" and nothing are no limit."""
    if value is None or isinstance(value, timedelta) or value == "none":
        return None if value == "none" else value
    found = _SPAN.fullmatch(str(value).strip())
    if found is None or not int(found[1]):
        raise ValueError("use hours, days or weeks, such as 12h, 90d or 8w, or none")
    return timedelta(hours=int(found[1]) * _HOURS[found[2]])


Bytes = Annotated[int, BeforeValidator(num_bytes)]
Span = Annotated[timedelta | None, BeforeValidator(time_span)]


class ServeSettings(BaseSettings):
    """Everything a server can be told; frozen, and values that cannot be are refused together.

    Sentences below the fields are the command line's help.

    >>> ServeSettings.load(port=9000).host
    '127.0.0.1'
    """

    model_config = SettingsConfigDict(env_prefix="LTM_", frozen=True, extra="forbid", validate_default=True)
    toml: ClassVar[Path | None] = None

    host: str = "127.0.0.1"
    """The address to listen at; one that others can reach needs a key first."""
    port: int = Field(8000, ge=0, le=65535)
    """The port to listen at; 0: one that is free."""
    model: str = DEFAULT_BACKBONE
    """The backbone: a built-in name, hub id, directory or .gguf file."""
    memory: str = DEFAULT_METHOD
    """longmem or another method that keeps a bank; text: what was said, by words and meaning; off."""
    recall: Literal["both", "text", "memory"] = "both"
    """What of a memory an answer has: passages in its prompt and the memory attached, or one of them."""
    sidenet: Path | None = None
    """What `ltm train` wrote; default: the one shipped for the model."""
    device: str | None = None
    """cpu, cuda, cuda:1; default: the GPU if there is one."""
    data_dir: Path = Path("~/.local/share/ltm/server")
    """Where keys and memories lie; one server at a time owns it."""
    retention: Span = None
    """What was said is forgotten after so long: 12h, 90d, 8w; default: never."""
    remember_answers: bool = False
    """Whether answers are taken into memories, too, as said by the assistant; they are logged either way."""
    memory_budget: Bytes = Field(2 * 10**9, ge=0)
    """Bytes of users' memories that are held open, such as 2GB; the least lately used are closed beyond it."""
    max_body: Bytes = Field(4 * 10**6, ge=1000)
    """Most bytes of a request."""
    max_upload: Bytes = Field(100 * 10**6, ge=1000)
    """Most bytes of an archive or document that is uploaded."""
    queue_size: int = Field(64, ge=1)
    """Most requests that wait for the model; one more is told to come again."""
    max_tokens: int = Field(512, ge=1)
    """Tokens of an answer where a request names no number."""
    most_tokens: int = Field(4096, ge=1)
    """Most tokens of an answer, whatever a request asks for."""
    user_requests_per_minute: int | None = Field(None, ge=1)
    """Most requests of a user in a minute; default: no limit, as for all below."""
    user_tokens_per_minute: int | None = Field(None, ge=1)
    """Most tokens of a user in a minute, of prompts and answers."""
    user_answers_at_once: int | None = Field(None, ge=1)
    """Most answers that a user has under way."""
    user_remembered_tokens: int | None = Field(None, ge=1)
    """Most tokens in a user's bank."""
    user_disk: Annotated[int | None, BeforeValidator(num_bytes)] = Field(None, ge=1000)
    """Most bytes of a user on the disk, such as 100MB."""
    key_requests_per_minute: int | None = Field(None, ge=1)
    """Most requests of a key in a minute, whoever it speaks for."""
    key_tokens_per_minute: int | None = Field(None, ge=1)
    """Most tokens of a key in a minute."""
    key_answers_at_once: int | None = Field(None, ge=1)
    """Most answers that a key has under way."""
    api_key: SecretStr | None = None
    """The first key, in place of one that is made up at the first start (environment only: LTM_API_KEY)."""

    @classmethod
    def load(cls, file: Path | None = None, **given: Any) -> ServeSettings:
        """Settings from what is given, else the environment, else a TOML file, else defaults; None is not given.

        Raises ConfigError with all problems together.
        """
        if file is not None and not file.is_file():
            raise LtmError(f"{file} is not there; give a TOML file with settings such as port = 8000")
        reading = cls if file is None else type(cls.__name__, (cls,), {"toml": file, "__module__": cls.__module__})
        try:
            return reading(**{name: value for name, value in given.items() if value is not None})
        except ValidationError as error:
            raise ConfigError([_problem(one) for one in error.errors()]) from None
        except ValueError as error:  # a file that is no TOML
            raise LtmError(f"{file} cannot be read: {error}") from None

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        file = () if cls.toml is None else (TomlConfigSettingsSource(settings_cls, cls.toml),)
        return init_settings, env_settings, *file

    @property
    def method(self) -> str:
        """The method that remembers."""
        return MEMORIES.get(self.memory, self.memory)

    @property
    def directory(self) -> Path:
        """The data directory, with ~ resolved."""
        return self.data_dir.expanduser()

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach the server."""
        return is_loopback(self.host.strip("[]"))

    @property
    def roles(self) -> tuple[str, ...]:
        """Whose turns are taken into memories."""
        return ("user", "assistant") if self.remember_answers else ("user",)


def is_loopback(host: str) -> bool:
    """Whether a name or address is this machine's for itself."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:  # a name: whoever it reaches
        return False


def _problem(error: Any) -> str:
    """One of pydantic's findings, in our words."""
    name = ".".join(map(str, error["loc"]))
    if error["type"] == "extra_forbidden":
        known = ", ".join(ServeSettings.model_fields)
        return f"there is no setting {name}; there are: {known}"
    said = error["msg"].removeprefix("Value error, ")
    shown = "..." if name == "api_key" else short_repr(error["input"])
    return f"{name}={shown}: {said[:1].lower()}{said[1:]}"
