"""The entry point: runs a command, turns a user's mistake into one line on stderr and an exit code."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence
from contextlib import suppress

import typer

from ltm.cli.streams import forget_output, safe_streams
from ltm.console import Interrupted, shown
from ltm.errors import LtmError
from ltm.malloc import keep_freed_memory

MISTAKE, INTERRUPTED = 2, 130

_ClickError: type[Exception] = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")
"""typer 0.26 and later bring their own copy of click."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `ltm` with these arguments (None: the process's own); returns the exit code.

    0: done; 2: a mistake of the user's, or something in the way such as a full disk, told in one line; 130:
    interrupted. What is a mistake of ours keeps its traceback.
    """
    with safe_streams():
        try:
            code = _run(sys.argv[1:] if arguments is None else arguments)
            sys.stdout.flush()
        except BrokenPipeError:  # `ltm bank list | head`: the reader has seen enough
            code = 0
        except OSError as error:
            code = _tell_failure(error)
        forget_output()
        return code


def _run(arguments: Sequence[str]) -> int:
    """The exit code of a command, with its mistakes told."""
    from ltm.cli.app import app

    _quiet_libraries()
    keep_freed_memory()
    if not all(map(_says_something, arguments)):  # an unset variable of a script, which as a path would be this folder
        return _tell("an argument is empty; give it a value, or leave it out", MISTAKE)
    if any("\0" in argument for argument in arguments):  # only from Python: no shell hands one over
        return _tell("an argument holds a NUL character, which no name of a file can have; leave it out", MISTAKE)
    try:
        code = app(args=list(arguments), prog_name="ltm", standalone_mode=False)
        if code == INTERRUPTED:  # what typer makes of Ctrl-C, when it does not raise Abort
            return _tell("stopped", INTERRUPTED)
        return code if isinstance(code, int) else 0
    except SystemExit as error:  # what typer makes of a broken pipe
        raise BrokenPipeError from error
    except Interrupted as error:
        return _tell(f"stopped; {error}", INTERRUPTED)
    except (KeyboardInterrupt, typer.Abort):
        return _tell("stopped", INTERRUPTED)
    except _ClickError as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # `ltm bank` alone: its message is the help
            print(error)
            return 0
        return _tell(_usage(error), MISTAKE)
    except LtmError as error:
        return _tell(str(error), MISTAKE)
    except RuntimeError as error:
        if "Symlink loop" not in str(error):  # how Python before 3.13 says what later is an OSError
            raise
        return _tell(f"{error}; give another path", MISTAKE)
    except MemoryError:
        return _tell("not enough memory; use a smaller backbone, memory or batch", MISTAKE)


def _says_something(argument: str) -> bool:
    name, equals, value = argument.partition("=")
    return bool(value.strip() if equals and name.startswith("--") else argument.strip())


def _usage(error: Exception) -> str:
    """What was wrong with the command line, and where its help is."""
    context = getattr(error, "ctx", None)
    return f"{error.format_message()} See: {context.command_path if context else 'ltm'} --help"  # type: ignore[attr-defined]


def _tell(message: str, code: int) -> int:
    print(f"ltm: {shown(' '.join(message.split()))}", file=sys.stderr)
    return code


def _tell_failure(error: OSError) -> int:
    """What the system refused; nothing more where it is stderr itself."""
    with suppress(OSError):
        _tell(f"{error.strerror or error}{': ' + str(error.filename) if error.filename else ''}", MISTAKE)
    return MISTAKE


def _quiet_libraries() -> None:
    """Progress bars and advice of other libraries are not ours to print; a setting of the user's wins."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
