"""ltm users: whose memories lie in a data directory; taken out, put in, deleted, while no server runs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ltm.cli.declared import AsJson, new_app
from ltm.cli.serve import ConfigFile, DataDir, load_settings
from ltm.console import notice, print_json, print_table
from ltm.errors import LtmError

if TYPE_CHECKING:
    from ltm.serve.data_directory import DataDirectory
    from ltm.serve.identity import Caller

app = new_app(
    help="Users of a server: list; and while it does not run, take out, put in, delete.",
    epilog="Try: ltm users list",
    no_args_is_help=True,
)
MOST_UNPACKED = 100 * 10**9
"""Bytes to which a file may unpack that the owner of the directory takes in."""

User = Annotated[str, typer.Argument(help="As the key or the client names them.")]
Namespace = Annotated[str, typer.Option(help="Which of the user's memories.")]
Tenant = Annotated[str, typer.Option(help="Whose user it is, as of ltm keys create.")]


@app.command("list", epilog="Try: ltm users list --json")
def list_users(data_dir: DataDir = None, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """All users, with the items that are remembered of them and the bytes they take."""
    settings = load_settings(config, data_dir=data_dir)
    from ltm.serve.data_directory import DataDirectory
    from ltm.serve.keys import KeyStore

    with closing(KeyStore(settings.directory)) as keys:
        found = DataDirectory(settings.directory, keys).users()
    if as_json:
        print_json([asdict(one) for one in found])
        return
    columns = ("user", "namespace", "tenant", "since", "items", "MB")
    rows = [
        [one.user, one.namespace, one.tenant, one.created[:10], one.items, f"{one.nbytes / 10**6:.1f}"] for one in found
    ]
    print_table(None, columns, rows, left=4)


@app.command(epilog="Try: ltm users export me -o me.zip")
def export(
    user: User,
    output: Annotated[Path, typer.Option("--output", "-o", help="The zip to write; it must not be there yet.")],
    memories: Annotated[
        bool,
        typer.Option(
            "--memories/--no-memories", help="Whether what a model made of the texts goes along, to be read in at once."
        ),
    ] = True,
    namespace: Namespace = "default",
    tenant: Tenant = "default",
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Write all of a user to one zip: what was said, with times and versions, kept conversations and responses."""
    if output.exists():
        raise LtmError(f"{output} is there already; give another --output")
    caller = _caller(user, namespace, tenant)
    partial = output.with_name(f".{output.name}.partial")
    with _owned(config, data_dir) as data:
        try:
            with open(partial, "wb", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
                manifest = data.export(caller, file, with_memories=memories)
            os.replace(partial, output)
        except OSError as error:
            raise LtmError(f"{output} cannot be written: {error.strerror or error}") from None
        finally:
            partial.unlink(missing_ok=True)
    if as_json:
        print_json(manifest)
        return
    notice(f"wrote {output}: {manifest['turns']:,} turns, {manifest['kept']:,} kept rows")


@app.command("import", epilog="Try: ltm users import me conversations.json")
def take_in(
    user: User,
    file: Annotated[
        Path, typer.Argument(help="What ltm users export wrote, or mem0's JSON, ChatGPT's export, a memory.jsonl.")
    ],
    only: Annotated[
        str | None, typer.Option(help="Of several users in the file (mem0), the one that is meant.")
    ] = None,
    restore: Annotated[
        bool, typer.Option("--restore", help="Also what was deleted here since; else that stays deleted.")
    ] = False,
    namespace: Namespace = "default",
    tenant: Tenant = "default",
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Add what a file holds to a user; the same file twice is taken in once."""
    caller = _caller(user, namespace, tenant)
    with _owned(config, data_dir) as data:
        from ltm.serve.importers import read_export

        try:
            with open(file, "rb") as opened:
                read = read_export(opened, MOST_UNPACKED, only)
                taken = data.take_in(caller, read, opened, restore=restore)
        except OSError as error:
            raise LtmError(f"{file} cannot be read: {error.strerror or error}") from None
    if as_json:
        print_json({"kind": read.kind, **asdict(taken)})
        return
    notice(f"took in {taken.turns:,} turns, {taken.conversations:,} conversations, {taken.responses:,} responses")
    if taken.deleted:
        notice(f"{taken.deleted:,} were deleted here and stay so; --restore takes them in, too", style="dim")


@app.command(epilog="Try: ltm users delete me --yes")
def delete(
    user: User,
    yes: Annotated[bool, typer.Option("--yes", help="Needed: nothing brings back what was deleted.")] = False,
    namespace: Annotated[str | None, typer.Option(help="Which of the user's memories; default: all.")] = None,
    tenant: Tenant = "default",
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Delete all that is stored of a user; keys stay, ltm keys revoke deletes those."""
    if not yes:
        raise LtmError(f"this deletes all that is stored of {user}; say --yes if that is meant")
    with _owned(config, data_dir) as data:
        count = data.delete(user, tenant, namespace)
        keys = [key.name for key in data.keys.all() if (key.tenant, key.user) == (tenant, user)]
    if as_json:
        print_json({"user": user, "namespaces": count, "keys": keys})
        return
    notice(f"deleted {user}: {count} {'memory' if count == 1 else 'memories'}")
    if keys:
        notice(f"keys that are still bound to {user}: {', '.join(keys)}; ltm keys revoke deletes them", style="dim")


@contextmanager
def _owned(config: Path | None, data_dir: Path | None) -> Iterator[DataDirectory]:
    settings = load_settings(config, data_dir=data_dir)
    from ltm.serve.data_directory import DataDirectory

    with DataDirectory.owned(settings.directory) as data:
        yield data


def _caller(user: str, namespace: str, tenant: str) -> Caller:
    load_settings(None)  # tells where the extra is missing
    from ltm.serve.identity import local_caller

    return local_caller(user, namespace, tenant)
