"""The commands of `ltm` and their options. Whatever needs torch is imported inside, so that help comes at once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from ltm.cli.options import refuse

app = typer.Typer(
    name="ltm",
    help="Long-term memory for language models: read documents into a memory, then use it.",
    epilog="Try: ltm read moby.txt -o moby.bank",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
bank_app = typer.Typer(help="What is in saved memories; remove, prove, merge, move.", no_args_is_help=True)
eval_app = typer.Typer(help="Measure methods.", no_args_is_help=True)
bench_app = typer.Typer(help="Measure methods on tasks; make a page of the results.", no_args_is_help=True)
app.add_typer(bank_app, name="bank", epilog="Try: ltm bank list moby.bank")
app.add_typer(eval_app, name="eval", epilog="Try: ltm eval perplexity --method window,longmem --data moby.txt")
app.add_typer(bench_app, name="bench", epilog="Try: ltm bench list")

BankPath = Annotated[Path, typer.Argument(metavar="BANK", help="The directory of a memory.")]
BankOrText = Annotated[
    Path, typer.Argument(metavar="BANK", help="A memory, or a text that is read first, each time; -: stdin.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON to stdout.")]
BackboneName = Annotated[
    str | None,
    typer.Option(
        help="A built-in name, hub id, directory or .gguf file; default: the memory's own, else smollm2-135m."
    ),
]
SideNetPath = Annotated[
    Path | None, typer.Option("--sidenet", help="What `ltm train` wrote; default: the one shipped.")
]
MethodName = Annotated[
    str | None,
    typer.Option("--method", help="A name that `ltm methods` lists; default: the memory's own, else longmem."),
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1; default: the GPU if there is one.")]
MaxTokens = Annotated[int, typer.Option("--max-tokens", help="Most tokens of an answer.")]
Temperature = Annotated[float, typer.Option(help="0: the likeliest token each time; 1: sample as the model believes.")]
Penalty = Annotated[
    float, typer.Option("--repetition-penalty", help="Above 1, what occurred already gets less likely.")
]
Seed = Annotated[int | None, typer.Option(help="Same seed, same answer.")]
Trace = Annotated[bool, typer.Option("--trace", help="Show the passages of memory that the answer used.")]
More = Annotated[list[Path] | None, typer.Argument(metavar="[DATA]...", help="More data, so that --data *.txt works.")]
KeyStorage = Annotated[
    str | None, typer.Option(help="Keys of a new memory: float32, float16, bfloat16, int8, int4; default: as computed.")
]
ValueStorage = Annotated[str | None, typer.Option(help="Values of a new memory, in the same way.")]
SearchStorage = Annotated[
    str | None, typer.Option(help="Search keys of a new memory, in the same way, or derived: smaller and slower.")
]
MemorySize = Annotated[int | None, typer.Option(help="Most tokens of the new memory; default: as it was, or 65536.")]
NewBank = Annotated[Path, typer.Option("--output", "-o", metavar="BANK", help="The new memory.")]
_STORAGES = ("key_storage", "value_storage", "search_storage")
Data = Annotated[
    list[Path],
    typer.Option(
        "--data", help="A file or folder of .txt, .md, .html, .jsonl, .jsonl.gz (field text), or -; repeatable."
    ),
]


def _version(asked: bool) -> None:
    if asked:
        import ltm

        print(f"ltm {ltm.__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command(epilog="Try: ltm read moby.txt -o moby.bank")
def read(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILES...", help="Files or folders of .txt, .md, .html, .jsonl, .jsonl.gz; - for stdin."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="BANK", help="The memory: made, or added to.")],
    backbone: BackboneName = None,
    sidenet: SideNetPath = None,
    method: MethodName = None,
    memory_size: Annotated[
        int | None, typer.Option(help="Most tokens a new memory holds, the oldest leave first; default: 65536.")
    ] = None,
    piped_name: Annotated[
        str | None, typer.Option("--name", help="What a text from a pipe is called; as .html or .jsonl it is read so.")
    ] = None,
    key_storage: KeyStorage = None,
    value_storage: ValueStorage = None,
    search_storage: SearchStorage = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Read documents into a memory on disk.

    A read that is killed leaves what was complete; the same command goes on from there. Documents that the memory
    holds already are passed over.
    """
    from ltm.cli.read import run_read

    storages = {"key_storage": key_storage, "value_storage": value_storage, "search_storage": search_storage}
    run_read(files, output, backbone, sidenet, method, memory_size, device, as_json, piped_name, **storages)


class _TracePage(TyperCommand):
    """Takes `--trace out.html` as `--trace --page out.html`: an option cannot have a value at will."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        end = args.index("--") if "--" in args else len(args)
        for place in range(min(end, len(args)) - 1, 0, -1):
            if args[place - 1] == "--trace" and args[place].lower().endswith((".html", ".htm")):
                args.insert(place, "--page")
        return super().parse_args(ctx, args)


@app.command(cls=_TracePage, epilog='Try: ltm ask moby.bank "Who is Queequeg?" --trace out.html')
def ask(
    bank: BankOrText,
    question: Annotated[str, typer.Argument(help="What to ask (- for stdin); with --continue, a text to go on from.")],
    trace: Annotated[
        bool,
        typer.Option(
            "--trace",
            help="Show the passages of memory that the answer used; --trace FILE.html writes a page of what each word "
            "of the answer used.",
        ),
    ] = False,
    page: Annotated[Path | None, typer.Option("--page", hidden=True)] = None,
    plain: Annotated[
        bool, typer.Option("--continue", help="Go on from the text as it stands, without a chat template.")
    ] = False,
    max_tokens: MaxTokens = 128,
    temperature: Temperature = 0.0,
    repetition_penalty: Penalty = 1.1,
    seed: Seed = None,
    backbone: BackboneName = None,
    sidenet: SideNetPath = None,
    method: MethodName = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Answer a question with a memory."""
    from ltm.cli.ask import run_ask

    sampling = _sampling(max_tokens, temperature, repetition_penalty, seed)
    run_ask(
        bank,
        question,
        trace or page is not None,
        plain,
        sampling,
        as_json,
        page,
        backbone=backbone,
        sidenet=sidenet,
        method=method,
        device=device,
    )


@app.command(epilog="Try: ltm chat moby.bank")
def chat(
    bank: BankOrText,
    trace: Trace = False,
    keep: Annotated[bool, typer.Option("--keep/--no-keep", help="Keep what was said in a saved memory.")] = True,
    max_tokens: MaxTokens = 256,
    temperature: Temperature = 0.0,
    repetition_penalty: Penalty = 1.1,
    seed: Seed = None,
    backbone: BackboneName = None,
    sidenet: SideNetPath = None,
    method: MethodName = None,
    device: Device = None,
) -> None:
    """Talk with a model that has a memory, a question a line; what was said is kept in a saved memory.

    /why shows the passages that the last answer used, /forget drops what was said so far, /quit or Ctrl-D ends. A
    document of the memory holds the whole conversation afterwards; `ltm bank delete` removes it.
    """
    from ltm.cli.chat import run_chat

    sampling = _sampling(max_tokens, temperature, repetition_penalty, seed)
    run_chat(bank, trace, keep, sampling, backbone=backbone, sidenet=sidenet, method=method, device=device)


def _sampling(max_tokens: int, temperature: float, penalty: float, seed: int | None) -> dict[str, float | int | None]:
    return {
        "max_new_tokens": max_tokens,
        "temperature": temperature,
        "repetition_penalty": penalty,
        "seed": seed,
    }


@app.command(
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    epilog="Try: ltm train --help",
)
def train(context: typer.Context) -> None:
    """Train a method's own weights beside a frozen backbone."""
    from ltm.cli.train import run_train

    run_train(context.args)


@eval_app.command(epilog="Try: ltm eval perplexity --method window,longmem --data moby.txt")
def perplexity(
    data: Data,
    more: More = None,
    methods: Annotated[
        str, typer.Option("--method", help="Names that `ltm methods` lists, with commas.")
    ] = "window,full,longmem",
    backbone: Annotated[str, typer.Option(help="A built-in name, hub id, directory or .gguf file.")] = "smollm2-135m",
    sidenet: SideNetPath = None,
    window: Annotated[
        int | None, typer.Option(help="Local window in tokens, the same for every method that has one; default: 1024.")
    ] = None,
    stride: Annotated[
        int | None, typer.Option(help="Tokens that leave a full window; default: all, as in the paper.")
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option("--max-tokens", help="Most tokens of each document; default: all.")
    ] = None,
    max_documents: Annotated[
        int | None, typer.Option("--max-documents", help="First documents only; default: all.")
    ] = None,
    by_position: Annotated[bool, typer.Option("--by-position", help="Also by place in the document.")] = False,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Perplexity on long texts, for several methods in one table."""
    from ltm.cli.evaluate import run_perplexity

    limits = {"max_tokens": max_tokens, "max_documents": max_documents}
    run_perplexity(
        [*data, *(more or [])], methods, backbone, sidenet, window, stride, limits, by_position, device, as_json
    )


@bench_app.command("run", epilog="Try: ltm bench run --methods window,longmem --data data/ --out results/")
def bench_run(
    out: Annotated[Path, typer.Option("--out", help="Folder of result files: made, added to, or gone on with.")],
    tasks: Annotated[str, typer.Option(help="Names that `ltm bench list` lists, with commas.")] = "long_text",
    methods: Annotated[
        str,
        typer.Option(help="With commas: NAME, NAME:key=value,..., NAME@TRAINED_WEIGHTS; any may end in: as LABEL."),
    ] = "window,full,longmem",
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="TASK.KEY=VALUE", help="An option of a task; repeatable.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option("--data", help="Folder of data sets; default: public ones by name.")
    ] = None,
    backbone: Annotated[str, typer.Option(help="A built-in name, hub id, directory or .gguf file.")] = "smollm2-135m",
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16, float16.")] = "auto",
    window: Annotated[int, typer.Option(help="Local window in tokens, the same for every method that has one.")] = 1024,
    stride: Annotated[
        int | None, typer.Option(help="Tokens that leave a full window; default: all for long_text, else half of it.")
    ] = None,
    budget: Annotated[
        str | None, typer.Option(help="Memory of each method: tokens (65536) or bytes (64MB); default: its own.")
    ] = None,
    seeds: Annotated[list[int] | None, typer.Option("--seed", help="For tasks with a seed; repeatable.")] = None,
    device: Device = None,
    restart: Annotated[bool, typer.Option("--restart", help="Remove earlier results of the same cells.")] = False,
    as_json: AsJson = False,
) -> None:
    """Measure methods on tasks.

    Each task and method has its result file in --out. A run that was stopped goes on where it was with the same
    command. Exit code 1: a method could not be measured, the others were.
    """
    from ltm.cli.bench import run_bench

    code = run_bench(
        tasks,
        methods,
        settings or [],
        out,
        data,
        backbone,
        dtype,
        window,
        stride,
        budget,
        seeds or [],
        device,
        restart,
        as_json,
    )
    raise typer.Exit(code)


@bench_app.command("report", epilog="Try: ltm bench report results/ --out page.md")
def bench_report(
    folder: Annotated[Path, typer.Argument(metavar="RESULTS", help="What `ltm bench run --out` wrote.")],
    out: Annotated[Path, typer.Option("--out", help="The page, .md; the same as .html is written beside it.")],
    title: Annotated[str, typer.Option(help="The page's title.")] = "Benchmark results",
    as_json: AsJson = False,
) -> None:
    """Make a page of tables and plots of a folder of results."""
    from ltm.cli.bench import run_report

    run_report(folder, out, title, as_json)


@bench_app.command("list", epilog="Try: ltm bench list --json")
def bench_list(as_json: AsJson = False) -> None:
    """The tasks there are: source and options."""
    from ltm.cli.bench import run_tasks

    run_tasks(as_json)


@bank_app.command("info", epilog="Try: ltm bank info moby.bank")
def bank_info(bank: BankPath, as_json: AsJson = False) -> None:
    """What a memory is: its backbone, size and settings."""
    from ltm.cli.bank import run_info

    run_info(bank, as_json)


@bank_app.command("list", epilog="Try: ltm bank list moby.bank")
def bank_list(bank: BankPath, as_json: AsJson = False) -> None:
    """The documents in a memory."""
    from ltm.cli.bank import run_list

    run_list(bank, as_json)


@bank_app.command("delete", epilog="Try: ltm bank delete moby.bank moby.txt")
def bank_delete(
    bank: BankPath,
    document: Annotated[str, typer.Argument(metavar="DOCUMENT", help="Name or id, as `ltm bank list` prints it.")],
    as_json: AsJson = False,
) -> None:
    """Remove a document from a memory, its text included."""
    from ltm.cli.bank import run_delete

    run_delete(bank, document, as_json)


@bank_app.command("verify", epilog='Try: ltm bank verify moby.bank --absent "Call me Ishmael"')
def bank_verify(
    context: typer.Context,
    bank: BankPath,
    absent: Annotated[
        str | None, typer.Option("--absent", metavar="TEXT", help="Prove that this text is not in the memory.")
    ] = None,
    model: Annotated[bool, typer.Option("--model/--no-model", help="With --absent: ask the model as well.")] = True,
    backbone: BackboneName = None,
    sidenet: SideNetPath = None,
    method: MethodName = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Check every file of a memory against its checksum; with --absent, that a text is gone from it.

    Gone by search (texts, remembered tokens), by bytes (every file), and by the model's likelihood, beside a memory
    that never held it. Exit code 1: it is still there.
    """
    from ltm.cli.bank import run_absent, run_verify

    opening = {"backbone": backbone, "sidenet": sidenet, "method": method, "device": device}
    if absent is None:
        refuse("without --absent", [*opening, "model"], context)
        run_verify(bank, as_json)
        return
    if not model:
        refuse("with --no-model", opening, context)
    raise typer.Exit(run_absent(bank, absent, model, as_json, opening))


@bank_app.command("compact", epilog="Try: ltm bank compact moby.bank")
def bank_compact(bank: BankPath, as_json: AsJson = False) -> None:
    """Write a memory anew in as few files as can be, without anything that was forgotten."""
    from ltm.cli.bank import run_compact

    run_compact(bank, as_json)


@bank_app.command("merge", epilog="Try: ltm bank merge moby.bank omoo.bank -o both.bank")
def bank_merge(
    banks: Annotated[list[Path], typer.Argument(metavar="BANKS...", help="Memories of one backbone.")],
    output: NewBank,
    memory_size: Annotated[
        int | None, typer.Option(help="Most tokens the new memory holds; default: enough for all of them.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make one memory of several."""
    from ltm.cli.bank import run_merge

    run_merge(banks, output, memory_size, as_json)


@bank_app.command("export", epilog="Try: ltm bank export moby.bank -o moby.jsonl")
def bank_export(
    bank: BankPath,
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE", help="Default: stdout.")] = None,
    as_json: AsJson = False,
) -> None:
    """The texts of a memory as JSON lines, with the ranges of characters that are remembered."""
    from ltm.cli.bank_texts import run_export

    run_export(bank, output, as_json)


@bank_app.command("import", epilog="Try: ltm bank import moby.jsonl -o moby.bank")
def bank_import(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `ltm bank export` wrote.")],
    output: NewBank,
    backbone: BackboneName = None,
    sidenet: SideNetPath = None,
    method: MethodName = None,
    memory_size: MemorySize = None,
    key_storage: KeyStorage = None,
    value_storage: ValueStorage = None,
    search_storage: SearchStorage = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Build a memory from exported texts: what was remembered of each."""
    from ltm.cli.bank_texts import run_import

    run_import(file, output, as_json, _opening(locals()))


@bank_app.command("rebuild", epilog="Try: ltm bank rebuild moby.bank -o new.bank --method em_llm")
def bank_rebuild(
    bank: BankPath,
    output: NewBank,
    backbone: BackboneName = None,
    sidenet: SideNetPath = None,
    method: MethodName = None,
    memory_size: MemorySize = None,
    key_storage: KeyStorage = None,
    value_storage: ValueStorage = None,
    search_storage: SearchStorage = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Build a memory from the texts of another, for another backbone or method; what is not given stays as it was."""
    from ltm.cli.bank_texts import run_rebuild

    run_rebuild(bank, output, as_json, _opening(locals()))


def _opening(values: dict[str, Any]) -> dict[str, Any]:
    """The options of a command that `Session.open` takes."""
    names = ("backbone", "sidenet", "method", "memory_size", "device", *_STORAGES)
    return {name: values[name] for name in names}


@app.command(epilog="Try: ltm methods --json")
def methods(as_json: AsJson = False) -> None:
    """The methods there are: name, paper and what each claims."""
    from ltm.cli.methods import run_methods

    run_methods(as_json)


@app.command(epilog="Try: ltm demo")
def demo(
    backbone: Annotated[str, typer.Option(help="A built-in name, hub id, directory or .gguf file.")] = "smollm2-135m",
    sidenet: SideNetPath = None,
    tokens: Annotated[int, typer.Option(help="Most tokens of the document to read; fewer on a slow machine.")] = 24576,
    window: Annotated[int, typer.Option(help="Local window in tokens, of window and longmem alike.")] = 256,
    as_json: AsJson = False,
) -> None:
    """Read a long document that every Python carries, and show what its memory is good for."""
    from ltm.cli.demo import run_demo

    run_demo(backbone, sidenet, tokens, window, as_json)
