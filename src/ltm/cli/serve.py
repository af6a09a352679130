"""ltm serve: a server that speaks OpenAI's API, with a memory for each user."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ltm.cli.declared import Device, SideNetPath, new_app
from ltm.console import notice, shell_line
from ltm.errors import LtmError

if TYPE_CHECKING:
    from ltm.serve.app import Server
    from ltm.serve.settings import ServeSettings

app = new_app()

ConfigFile = Annotated[Path | None, typer.Option("--config", help="A TOML file of such settings: port = 9000.")]
DataDir = Annotated[
    Path | None, typer.Option(help="Where keys and memories lie; one server at a time owns it.", show_default=False)
]


@app.command(epilog="Try: ltm serve --model tiny-llama --memory off")
def serve(
    config: ConfigFile = None,
    host: Annotated[
        str | None,
        typer.Option(help="The address to listen at; one that others can reach needs a key first."),
    ] = None,
    port: Annotated[int | None, typer.Option(help="The port to listen at; 0: one that is free.")] = None,
    model: Annotated[
        str | None, typer.Option(help="The backbone: a built-in name, hub id, directory or .gguf file.")
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(
            metavar="longmem|text|off",
            help="longmem or another method that keeps a bank; text: what was said, by words and meaning; off.",
        ),
    ] = None,
    recall: Annotated[
        str | None,
        typer.Option(
            metavar="both|text|memory",
            help="What of a memory an answer has: passages in its prompt and the memory attached, or one of them.",
        ),
    ] = None,
    sidenet: SideNetPath = None,
    device: Device = None,
    data_dir: DataDir = None,
    retention: Annotated[
        str | None, typer.Option(help="What was said is forgotten after so long: 12h, 90d, 8w; default: never.")
    ] = None,
    remember_answers: Annotated[
        bool | None,
        typer.Option(
            "--remember-answers/--no-remember-answers",
            help="Whether answers are taken into memories, too, as said by the assistant; they are logged either way.",
        ),
    ] = None,
    memory_budget: Annotated[
        str | None,
        typer.Option(
            help="Bytes of users' memories that are held open, such as 2GB; the least lately used are closed beyond it."
        ),
    ] = None,
    max_body: Annotated[str | None, typer.Option(help="Most bytes of a request.")] = None,
    max_upload: Annotated[
        str | None, typer.Option(help="Most bytes of an archive or document that is uploaded.")
    ] = None,
    queue_size: Annotated[
        int | None, typer.Option(help="Most requests that wait for the model; one more is told to come again.")
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Tokens of an answer where a request names no number.")] = None,
    most_tokens: Annotated[
        int | None, typer.Option(help="Most tokens of an answer, whatever a request asks for.")
    ] = None,
    user_requests_per_minute: Annotated[
        int | None, typer.Option(help="Most requests of a user in a minute; default: no limit, as for all below.")
    ] = None,
    user_tokens_per_minute: Annotated[
        int | None, typer.Option(help="Most tokens of a user in a minute, of prompts and answers.")
    ] = None,
    user_answers_at_once: Annotated[int | None, typer.Option(help="Most answers that a user has under way.")] = None,
    user_remembered_tokens: Annotated[int | None, typer.Option(help="Most tokens in a user's bank.")] = None,
    user_disk: Annotated[str | None, typer.Option(help="Most bytes of a user on the disk, such as 100MB.")] = None,
    key_requests_per_minute: Annotated[
        int | None, typer.Option(help="Most requests of a key in a minute, whoever it speaks for.")
    ] = None,
    key_tokens_per_minute: Annotated[int | None, typer.Option(help="Most tokens of a key in a minute.")] = None,
    key_answers_at_once: Annotated[int | None, typer.Option(help="Most answers that a key has under way.")] = None,
) -> None:
    """Answer OpenAI's clients, and remember each user: POST /v1/chat/completions at http://127.0.0.1:8000/v1.

    Settings come from the command line, else from the environment (LTM_PORT=9000), else from the file of --config. The
    first start makes a key and prints it.
    """
    given = {name: value for name, value in locals().items() if name != "config"}
    settings = load_settings(config, **given)
    from ltm.serve.running import run_server

    run_server(settings, _tell)


def load_settings(config: Path | None, **given: Any) -> ServeSettings:
    """Settings of a server. Raises LtmError where the extra is not installed."""
    try:
        import prometheus_client  # noqa: F401
        import sse_starlette  # noqa: F401
        import uvicorn  # noqa: F401

        from ltm.serve.settings import ServeSettings

        if find_spec("mcp") is None:  # importing it takes as long as the rest
            raise ModuleNotFoundError("No module named 'mcp'", name="mcp")
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("ltm"):
            raise
        raise LtmError('a server needs more libraries; run: pip install "ltm[server]"') from error
    return ServeSettings.load(config, **given)


def _tell(url: str, server: Server, first_key: str | None) -> None:
    """Where it is, and how it is asked. Whoever sees a local server's terminal may log in to its page."""
    from ltm.serve.sessions import LINK_SECONDS

    model = server.model
    if first_key is not None:
        notice("a first key was made, for the user me; it is shown this once:")
        print(first_key, flush=True)
    notice(f"{model.name} with memory {model.memory} listens at {url}/v1; Ctrl-C stops it")
    token = server.sessions.link_token() if server.settings.is_local else None
    if token is None:
        notice(f"its page, where a key logs in: {url}/")
    else:
        notice(
            f"its page, logged in by this link, once and within {LINK_SECONDS / 60:.0f} minutes: {url}/#token={token}"
        )
    key = first_key or "KEY"
    body = f'{{"model": "{model.name}", "messages": [{{"role": "user", "content": "Hello"}}]}}'
    header = f"Authorization: Bearer {key}"
    notice(f"try: {shell_line('curl', f'{url}/v1/chat/completions', '-H', header, '-d', body)}", style="dim")
