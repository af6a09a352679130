"""ltm train: its options are the fields of TrainConfig and of the method's config."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ltm.cli.declared import AsJson, BackboneName, Device, new_app
from ltm.cli.options import ConfigOption, config_options, refuse, run_with_options
from ltm.configs import DEFAULT_BACKBONE, DEFAULT_METHOD, config_from_options
from ltm.console import next_step, notice, print_json
from ltm.data.pipes import is_stream
from ltm.errors import LtmError
from ltm.methods import METHODS, create_method, load_method, method_class

if TYPE_CHECKING:
    from ltm.training import TrainResult, Validation

app = new_app()


@app.command(
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    epilog="Try: ltm train --help",
)
def train(context: typer.Context) -> None:
    """Train a method's own weights beside a frozen backbone."""
    epilog = "Try: ltm train --data books/ --out sidenet/ --max-minutes 45"
    run_with_options(_train, _all_options(_method_name(context.args)), context.args, "ltm train", epilog)


def _train(
    context: typer.Context,
    data: Annotated[
        list[Path],
        typer.Option(
            "--data", help="A file or folder of .txt, .md, .html, .jsonl, .jsonl.gz; each a kind; repeatable."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="Where the trained weights, log and checkpoints go.")],
    more: Annotated[
        list[Path] | None, typer.Argument(metavar="[DATA]...", help="More data, so that --data *.txt works.")
    ] = None,
    backbone: BackboneName = DEFAULT_BACKBONE,
    method: Annotated[str, typer.Option(help="A method that `ltm methods` lists as trained.")] = DEFAULT_METHOD,
    validation: Annotated[
        list[Path] | None, typer.Option(help="Held-out data to evaluate on meanwhile; repeatable.")
    ] = None,
    start_from: Annotated[Path | None, typer.Option(help="Go on from trained weights, with their config.")] = None,
    num_exercises: Annotated[
        int, typer.Option("--exercises", help="Documents of generated exercises for memory to add to the data.")
    ] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint in --out.")] = False,
    device: Device = None,
    as_json: AsJson = False,
    **options: Any,
) -> None:
    """Train a method's own weights beside a frozen backbone.

    The run ends at the first of --max-steps, --max-tokens and --max-minutes; Ctrl-C saves a checkpoint, and the same
    command with --resume goes on from it. For several processes: torchrun --nproc-per-node 2 -m ltm.cli train ...
    """
    from ltm.backbone import load_backbone
    from ltm.training import Corpus, SegmentStream, TrainConfig, Trainer, exercises
    from ltm.training.record import check_out

    fields = {option.name for option in config_options(TrainConfig)}
    config = TrainConfig(**{name: value for name, value in options.items() if name in fields})
    own = {option.name for option in config_options(method_class(method).config_class)}
    method_options = {name: value for name, value in options.items() if name in own}
    if start_from is not None:
        refuse("with --start-from, whose config is taken", sorted(own - fields), context)
    config_from_options(method_class(method).config_class, method_options, f"method {method}")
    check_out(out)
    corpus = Corpus.from_paths([*data, *(more or [])])
    if num_exercises:
        corpus = corpus.joined("exercises", exercises([document.text for document in corpus], num_exercises))
    loaded = load_backbone(backbone, device=device)
    if start_from is None:
        trained = create_method(method, loaded, **method_options)
    else:
        trained = load_method(loaded, start_from, trainable=True)
        if trained.name != method:
            raise LtmError(
                f"{start_from} holds weights of {trained.name}, not of {method}; give --method {trained.name}"
            )
    stream = SegmentStream.from_config(corpus, loaded.tokenizer, config)
    check = _validation(validation, loaded.tokenizer, config.segment_size)
    if _is_main():
        notice(
            f"training {trained.num_trainable:,} weights on {len(corpus)} documents: {asdict(trained.method_config)}"
        )
    result = Trainer(trained, stream, config, out, check).train(resume)
    if _is_main():
        _report(result, data[0], out, backbone, trained.name, as_json)


def _validation(paths: Sequence[Path] | None, tokenizer: Any, segment_size: int) -> Validation | None:
    if not paths:
        return None
    from ltm.training import Corpus, Validation

    return Validation(Corpus.from_paths(paths), tokenizer, segment_size=segment_size)


def _method_name(arguments: Sequence[str]) -> str:
    """The value of --method, needed before the other options are known."""
    for index, argument in enumerate(arguments):
        if argument.startswith("--method="):
            return argument.partition("=")[2]
        if argument == "--method" and index + 1 < len(arguments):
            return arguments[index + 1]
    return DEFAULT_METHOD


def _all_options(method: str) -> list[ConfigOption]:
    """The method's options, then those of training; one that both have is given once and set in both."""
    from ltm.training import TrainConfig

    chosen = method_class(method)
    if not chosen.card.needs_training:
        trained = [name for name, card in METHODS.cards().items() if card.needs_training]
        raise LtmError(f"method {method} has nothing to train; use one of: {', '.join(trained)}")
    own = config_options(chosen.config_class)
    names = {option.name for option in own}
    return [*own, *(option for option in config_options(TrainConfig) if option.name not in names)]


def _is_main() -> bool:
    """Whether this is the process that speaks, of those that torchrun started."""
    return os.environ.get("RANK", "0") == "0"


def _report(result: TrainResult, data: Path, out: Path, backbone: str, method: str, as_json: bool) -> None:
    if as_json:
        print_json({**asdict(result), "checkpoint": str(result.checkpoint), "out": str(out)})
    elif result.stopped is None:
        notice(f"trained {result.step} steps, {result.tokens:,} tokens in {result.seconds / 60:.1f} min: {out}")
        if is_stream(data):
            return
        bank = out.with_name(f"{out.name or 'trained'}.bank")
        next_step("ltm", "read", data, "-o", bank, "--backbone", backbone, "--method", method, "--sidenet", out)
