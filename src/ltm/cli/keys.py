"""ltm keys: who may speak to a server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ltm.cli.declared import AsJson, new_app
from ltm.cli.serve import ConfigFile, DataDir, load_settings
from ltm.console import notice, print_json, print_table
from ltm.errors import LtmError

if TYPE_CHECKING:
    from ltm.serve.keys import ApiKey, KeyStore

app = new_app(
    help="Keys of a server: make, list, revoke; a server that runs knows at once.",
    epilog="Try: ltm keys list",
    no_args_is_help=True,
)


@app.command(epilog="Try: ltm keys create laptop --user me --expires 90d")
def create(
    name: Annotated[str, typer.Argument(help="What the key is called.")],
    user: Annotated[str | None, typer.Option(help="Whose memory it has: this user's alone.")] = None,
    gateway: Annotated[
        bool, typer.Option("--gateway", help="Trusted to say for whom each request is, in place of --user.")
    ] = False,
    scope: Annotated[
        list[str] | None,
        typer.Option(help="What it may: chat, memory:read, memory:write (these by default), admin; one each time."),
    ] = None,
    expires: Annotated[str | None, typer.Option(help="When it ends: in 12h, 90d, 8w; default: never.")] = None,
    tenant: Annotated[str, typer.Option(help="Whose users these are: two tenants share none.")] = "default",
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Make a key and print it, this once."""
    if (user is None) != gateway:
        raise LtmError("a key is one user's or a gateway's: give --user NAME, or --gateway")
    with _store(config, data_dir) as keys:
        from ltm.serve.keys import USUAL
        from ltm.serve.settings import time_span

        try:
            span = time_span(expires)
        except ValueError as error:
            raise LtmError(f"--expires {expires}: {error}") from None
        key, text = keys.create(name, user, scope or USUAL, span, tenant)
    if as_json:
        print_json({"key": text, **asdict(key)})
        return
    print(text)
    notice(f"key {key.id}, {name}, of {'a gateway' if gateway else f'user {user}'}; it is shown this once", style="dim")


@app.command("list", epilog="Try: ltm keys list --json")
def list_keys(data_dir: DataDir = None, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """All keys, without their texts."""
    with _store(config, data_dir) as keys:
        found = keys.all()
    if as_json:
        print_json([asdict(key) for key in found])
        return
    columns = ("id", "name", "begins", "user", "scopes", "ends", "last used")
    print_table(None, columns, [_row(key) for key in found], left=len(columns))


@app.command(epilog="Try: ltm keys revoke laptop")
def revoke(
    key: Annotated[str, typer.Argument(help="Id, name, or how it begins, as `ltm keys list` prints it.")],
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Delete a key; whoever has it is refused from now on."""
    with _store(config, data_dir) as keys:
        gone = keys.revoke(key)
    if as_json:
        print_json(asdict(gone))
        return
    notice(f"revoked key {gone.id}, {gone.name}")


@contextmanager
def _store(config: Path | None, data_dir: Path | None) -> Iterator[KeyStore]:
    settings = load_settings(config, data_dir=data_dir)
    from ltm.serve.keys import KeyStore

    keys = KeyStore(settings.directory)
    try:
        yield keys
    finally:
        keys.close()


def _row(key: ApiKey) -> list[Any]:
    user = "(gateway)" if key.user is None else key.user
    times = [(key.expires or "never")[:10], (key.used or "never")[:16].replace("T", " ")]
    return [key.id, key.name, f"{key.shown}...", user, ", ".join(key.scopes), *times]
