"""Who is speaking, and to whose memory: decided here alone, from the key, the headers and the body of a request.

| key | names a user | the memory |
| --- | --- | --- |
| user-bound | nobody, or its own user | of its user |
| user-bound | another user, in any of `USER_FIELDS` | none: 403 with the field named |
| gateway | in one or more of `USER_FIELDS` | of the first of them, in this order |
| gateway | nobody | none: nothing is read or written |

There is no default user that those without a name would share.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ltm.errors import LtmError
from ltm.serve.errors import ApiError, invalid

USER_FIELDS = (
    "memory.user",
    "X-LTM-User",
    "x-litellm-customer-id",
    "x-litellm-end-user-id",
    "X-OpenWebUI-User-Id",
    "safety_identifier",
    "user",
    "metadata.user_id",
)
"""Where a user may be named, first match first: fields of the body (`a.b`: b of a), and headers."""
SESSION_FIELDS = ("conversation", "previous_response_id", "X-OpenWebUI-Chat-Id", "memory.session")
"""Where a conversation may be named."""
DEFAULT_NAMESPACE = "default"
MOST_CHARS = 512
"""Of a name."""

Headers = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Principal:
    """What a key stands for. user: whom it is bound to; None: a gateway, trusted to speak for many. tenant: whose
    users it speaks for; gateways of two tenants never share a user."""

    user: str | None
    tenant: str = "default"


@dataclass(frozen=True)
class Caller:
    """Whose memory a request may use. user: None means no memory at all; session: the conversation, where named."""

    tenant: str
    user: str | None
    namespace: str = DEFAULT_NAMESPACE
    session: str | None = None

    @property
    def turn(self) -> str:
        """Who waits in the queue: one user's requests are done in order; those of nobody wait together."""
        return repr((self.tenant, self.user))

    def directory(self, secret: bytes) -> str:
        """A name for this memory's directory that tells nothing and that nobody can choose: 64 hexadecimal digits,
        HMAC-SHA256 under the server's secret. Raises ValueError without a user."""
        if self.user is None:
            raise ValueError("no user, no memory")
        named = json.dumps([self.tenant, self.user, self.namespace])
        return hmac.new(secret, named.encode(), hashlib.sha256).hexdigest()


def resolve(principal: Principal, headers: Headers, body: Mapping[str, Any]) -> Caller:
    """The identity of a request, by the table above. Raises ApiError: 403 for another user than a key's own, 400 for a
    name that is none, and for a header that is there twice with two values.

    >>> resolve(Principal(None), [("x-ltm-user", "ann")], {"user": "bob"}).user
    'ann'
    >>> resolve(Principal("me"), [], {}).user
    'me'
    """
    named = [(field, name) for field in USER_FIELDS if (name := _named(field, headers, body)) is not None]
    user = principal.user
    if user is None:
        user = named[0][1] if named else None
    else:
        for field, name in named:
            if name != user:
                raise ApiError(
                    403,
                    f"this key is bound to one user and {field} names another; leave it out, or take a gateway key",
                    "memory_forbidden",
                    field,
                )
    namespace = _named("memory.namespace", headers, body) or DEFAULT_NAMESPACE
    sessions = (_named(field, headers, body) for field in SESSION_FIELDS)
    return Caller(principal.tenant, user, namespace, next((one for one in sessions if one is not None), None))


def local_caller(user: str, namespace: str = DEFAULT_NAMESPACE, tenant: str = "default") -> Caller:
    """The user whom whoever starts a process names. Raises LtmError for a name that is none."""
    try:
        return resolve(Principal(None, tenant), [], {"memory": {"user": user, "namespace": namespace}})
    except ApiError as error:
        raise LtmError(error.message) from None


def with_namespace(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """Fields in which a namespace may be named on its own, as `resolve` takes them: a query has no field within a
    field."""
    if "namespace" not in data:
        return data
    memory = data.get("memory")
    return {**data, "memory": {**(memory if isinstance(memory, dict) else {}), "namespace": data["namespace"]}}


def _named(field: str, headers: Headers, body: Mapping[str, Any]) -> str | None:
    """The name in a header or a field of the body; None where there is none, or an empty one."""
    if field.lower().startswith("x-"):
        values = {_text(value) for name, value in headers if name.lower() == field.lower()}
        if len(values) > 1:
            raise invalid(f"header {field} is there {len(values)} times with other values; send one", field)
        value: Any = values.pop() if values else None
    else:
        value = body
        for part in field.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if field == "conversation" and isinstance(value, Mapping):
            value = value.get("id")
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise invalid(f"{field} is no text; give a name", field)
    if len(value) > MOST_CHARS or not value.strip():
        raise invalid(f"{field} is no name; give 1 to {MOST_CHARS} characters that are not all blank", field)
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise invalid(f"{field} holds half a character; give well-formed Unicode", field)
    return value


def _text(value: str) -> str:
    """A header's value as its sender meant it: servers decode headers as Latin-1, clients write UTF-8."""
    try:
        return value.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return value
