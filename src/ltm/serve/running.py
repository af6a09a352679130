"""A server from its settings to its end."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import uvicorn

from ltm.errors import LtmError
from ltm.serve.app import Server
from ltm.serve.identity import local_caller
from ltm.serve.keys import KeyStore
from ltm.serve.knowledge_graph import KnowledgeGraph, read_lines
from ltm.serve.mcp_files import mcp_files
from ltm.serve.mcp_graph import mcp_graph
from ltm.serve.mcp_server import local_reach, mcp_server
from ltm.serve.memory_items import MemoryItems
from ltm.serve.own_directory import OwnDirectory
from ltm.serve.served_model import ServedModel
from ltm.serve.settings import ServeSettings
from ltm.serve.users import Users

STOP_SECONDS = 10
"""How long a stop waits for answers that are being given."""


def run_server(settings: ServeSettings, told: Callable[[str, Server, str | None], None]) -> None:
    """Serve until the process is told to stop.

    told: called once requests can come, with the server's address, the server and the first key if it was made now.
    Raises LtmError for a directory that another server owns, an address that cannot be had, an address that others can
    reach while there is no key, and whatever the model refuses; all before it listens.
    """
    with OwnDirectory(settings.directory) as owned, listening_socket(settings) as listening:
        keys = KeyStore(owned.directory)
        try:
            check_reach(settings, keys)
            server = Server(settings, keys, ServedModel.load(settings))
            told(address_of(listening), server, keys.first(_given_key(settings)))
            config = uvicorn.Config(
                server.app,
                log_level="warning",
                access_log=False,
                server_header=False,
                ws="none",
                timeout_graceful_shutdown=STOP_SECONDS,
            )
            uvicorn.Server(config).run(sockets=[listening])
        finally:
            keys.close()


MCP_SERVERS = {"ltm": mcp_server, "memory": mcp_graph, "files": mcp_files}
"""Tools by the name of --compat: ours, and those of others that clients know."""


def run_mcp(
    settings: ServeSettings,
    user: str,
    namespace: str,
    told: Callable[[], None],
    compat: str = "ltm",
    graph: Path | None = None,
) -> None:
    """Serve one user's memory over MCP on stdin and stdout until stdin ends; told: called before the first request.

    compat: of MCP_SERVERS. graph: a memory.jsonl whose entities and relations are added first.
    Raises LtmError for a directory that a server owns, a name that is none, a model without memory, and whatever the
    model refuses.
    """
    if settings.memory == "off":
        raise LtmError("there is no memory to serve with --memory off; take longmem or text")
    caller, lines = local_caller(user, namespace), read_lines(graph) if graph is not None else []
    with OwnDirectory(settings.directory) as owned, closing(KeyStore(owned.directory)) as keys:
        model, roles = ServedModel.load(settings), settings.roles
        users = Users(owned.directory, model, keys, settings.memory_budget, settings.retention, roles=roles)
        with closing(users):
            if lines:
                with users.using(caller) as memory:
                    KnowledgeGraph(MemoryItems(memory)).take_in(lines)
            told()
            MCP_SERVERS[compat](local_reach(users, caller)).run("stdio")


def check_reach(settings: ServeSettings, keys: KeyStore) -> None:
    """Raise LtmError where others would reach a server that has no key yet."""
    if not settings.is_local and _given_key(settings) is None and not keys.all():
        raise LtmError(
            f"others can reach {settings.host} and there is no key yet; make one first: ltm keys create NAME --user me "
            f"--data-dir {settings.data_dir}"
        )


def _given_key(settings: ServeSettings) -> str | None:
    return None if settings.api_key is None else settings.api_key.get_secret_value()


def listening_socket(settings: ServeSettings) -> socket.socket:
    """The socket to listen at."""
    host = settings.host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, settings.port), family=family, backlog=128)
    except OSError as error:
        why = error.strerror or error
        raise LtmError(
            f"{settings.host} port {settings.port} cannot be had: {why}; give another --host or --port"
        ) from None


def address_of(listening: socket.socket) -> str:
    """Where clients find it."""
    host, port = listening.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
