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
    from ltm.learning import Learner
    from ltm.training import Corpus, TrainResult, Validation

app = new_app()


@app.command(
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    epilog="Try: ltm train --help",
)
def train(context: typer.Context) -> None:
    """Train a method's own weights beside a frozen backbone."""
    epilog = "Try: ltm train --data books/ --out sidenet/ --max-minutes 45"
    method, learner = (_value_of(flag, context.args) for flag in ("--method", "--learner"))
    trains_backbone = _value_of("--train-backbone", context.args) is not None
    options = _all_options(method or DEFAULT_METHOD, learner, trains_backbone)
    run_with_options(_train, options, context.args, "ltm train", epilog)


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
    stages: Annotated[
        bool, typer.Option("--stages", help="Train on each --data in turn, one stage each, instead of mixing them.")
    ] = False,
    learner: Annotated[
        str | None, typer.Option(help="How later stages keep what earlier ones taught: ewc; unset: not at all.")
    ] = None,
    num_exercises: Annotated[
        int, typer.Option("--exercises", help="Documents of generated exercises for memory to add to the data.")
    ] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint in --out.")] = False,
    device: Device = None,
    as_json: AsJson = False,
    **options: Any,
) -> None:
    """Train a method's own weights beside a frozen backbone.

    The run (with --stages, each stage) ends at the first of --max-steps, --max-tokens and --max-minutes; Ctrl-C saves a
    checkpoint, and the same command with --resume goes on from it. For several processes: torchrun
    --nproc-per-node 2 -m ltm.cli train ...
    """
    from ltm.backbone import load_backbone
    from ltm.training import SegmentStream, TrainConfig, Trainer
    from ltm.training.record import check_out

    fields = {option.name for option in config_options(TrainConfig)}
    config = TrainConfig(**{name: value for name, value in options.items() if name in fields})
    own = {option.name for option in config_options(method_class(method).config_class)}
    method_options = {name: value for name, value in options.items() if name in own}
    if start_from is not None:
        refuse("with --start-from, whose config is taken", sorted(own - fields), context)
    config_from_options(method_class(method).config_class, method_options, f"method {method}")
    strategy = _learner(learner, options, start_from)
    check_out(out)
    paths = [*data, *(more or [])]
    corpora = [_corpus(part, num_exercises) for part in ([[path] for path in paths] if stages else [paths])]
    dtype = "auto" if config.train_backbone is None else "float32"  # bfloat16 would lose small steps
    loaded = load_backbone(backbone, device=device, dtype=dtype)
    if start_from is None:
        trained = create_method(method, loaded, **method_options)
    else:
        trained = load_method(loaded, start_from, trainable=True)
        if trained.name != method:
            raise LtmError(
                f"{start_from} holds weights of {trained.name}, not of {method}; give --method {trained.name}"
            )
    streams = [SegmentStream.from_config(corpus, loaded.tokenizer, config) for corpus in corpora]
    check = _validation(validation, loaded.tokenizer, config.segment_size)
    trainer = Trainer(trained, streams, config, out, check, learner=strategy)
    if _is_main():
        count, documents = trainer.num_trainable, " and ".join(str(len(corpus)) for corpus in corpora)
        notice(f"training {count:,} weights on {documents} documents: {asdict(trained.method_config)}")
    result = trainer.train(resume)
    if _is_main():
        trained_backbone = backbone if config.train_backbone is None else str(out / "backbone")
        _report(result, data[0], out, trained_backbone, trained.name, as_json)


def _learner(name: str | None, options: dict[str, Any], start_from: Path | None) -> Learner:
    """The learner of a run, which goes on with what that of an earlier one kept."""
    from ltm.learning import LEARNERS, Learner, create_learner
    from ltm.training.saved_learner import continue_learner, kept_learner

    kept = None if start_from is None else kept_learner(start_from)
    if name is None:
        if kept is not None:
            notice(f"what learner {kept} kept in {start_from} is left out; --learner {kept} goes on with it")
        return Learner()
    known = {option.name for option in config_options(LEARNERS[name].config_class)}
    learner = create_learner(name, **{option: value for option, value in options.items() if option in known})
    if kept is not None and start_from is not None:
        continue_learner(learner, start_from)
    return learner


def _corpus(paths: Sequence[Path], num_exercises: int) -> Corpus:
    """The documents of one stage, with exercises made of them."""
    from ltm.training import Corpus, exercises

    corpus = Corpus.from_paths(paths)
    if not num_exercises:
        return corpus
    return corpus.joined("exercises", exercises([document.text for document in corpus], num_exercises))


def _validation(paths: Sequence[Path] | None, tokenizer: Any, segment_size: int) -> Validation | None:
    if not paths:
        return None
    from ltm.training import Corpus, Validation

    return Validation(Corpus.from_paths(paths), tokenizer, segment_size=segment_size)


def _value_of(flag: str, arguments: Sequence[str]) -> str | None:
    """What follows --method, say, which is needed before the other options are known; None: it is not there."""
    for index, argument in enumerate(arguments):
        if argument.startswith(f"{flag}="):
            return argument.partition("=")[2]
        if argument == flag and index + 1 < len(arguments):
            return arguments[index + 1]
    return None


def _all_options(method: str, learner: str | None, trains_backbone: bool) -> list[ConfigOption]:
    """The method's options, the learner's and those of training; one that several have is given once and set in all."""
    from ltm.learning import LEARNERS
    from ltm.training import TrainConfig

    chosen = method_class(method)
    if not chosen.card.needs_training and not trains_backbone:
        trained = [name for name, card in METHODS.cards().items() if card.needs_training]
        raise LtmError(f"method {method} has nothing to train; use one of: {', '.join(trained)}")
    strategies = [] if learner is None else [LEARNERS[learner].config_class]
    options = [option for kind in (chosen.config_class, *strategies, TrainConfig) for option in config_options(kind)]
    return list({option.name: option for option in reversed(options)}.values())[::-1]


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
