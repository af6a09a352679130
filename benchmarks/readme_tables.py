"""Write the README's figures from the result files: python benchmarks/readme_tables.py"""

from __future__ import annotations

import json
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
START, END = "<!-- measured: benchmarks/readme_tables.py -->", "<!-- end -->"


def main() -> None:
    readme = ROOT / "README.md"
    parts = [
        learns(load("longmem_learns")),
        speed(*map(load, sorted(file.stem for file in RESULTS.glob("longmem_speed_*.json")))),
    ]
    body = "\n\n".join([START, *parts, END])
    text = readme.read_text()
    pattern = re.compile(re.escape(START) + ".*?" + re.escape(END), re.DOTALL)
    readme.write_text(pattern.sub(lambda _: body, text))


def load(name: str) -> dict:
    return json.loads((RESULTS / f"{name}.json").read_text())


def learns(result: dict) -> str:
    config, machine = result["config"], result["machine"]
    minutes = [round(seconds / 60) for seconds in result["training_seconds"].values()]
    rows = [
        "| test documents | tokens | backbone, window 256 | SideNet without memory | LongMem | memory's own share |",
        "| --- | --: | --: | --: | --: | --: |",
    ]
    for kind, figures in result["results"].items():
        score = figures["perplexity"]
        rows.append(
            f"| {kind} | {figures['tokens']:,} | {score['window']:.2f} | "
            f"{score['no_memory']:.2f} ({figures['no memory against window']:+.1%}) | "
            f"{score['longmem']:.2f} ({figures['longmem against window']:+.1%}) | "
            f"{figures['longmem against no memory']:+.1%} |"
        )
    return (
        f"**Perplexity** of SmolLM2-135M-Instruct ({result['dtype'].removeprefix('torch.')}) in separate windows "
        f"of 256, after {config['tokens']:,} training tokens ({minutes[0]} minutes with memory, {minutes[1]} "
        f"without, on {machine['cores']} cores shared with other work), one seed. Most of it is adaptation to the "
        f"text; the last column is what memory adds. `python benchmarks/longmem_learns.py --data DATA --out RUN`\n\n"
        + "\n".join(rows)
    )


def speed(*results: dict) -> str:
    rows = [
        "| | " + " | ".join(r["dtype"].removeprefix("torch.") for r in results) + " |",
        "| --- |" + " --: |" * len(results),
    ]
    lines = [
        (
            "reading a document, against the backbone's plain forward (tokens/s)",
            lambda r: f"{r['reading']['ratio']:.2f} x",
        ),
        (
            "generating with 64k remembered tokens, against none (seconds)",
            lambda r: f"{r['generating']['ratio']:.2f} x",
        ),
        ("the same, against the bare backbone", lambda r: f"{r['generating']['ratio_to_backbone']:.2f} x"),
        (
            "retrieval for 1,024 tokens from 65,536, against the forward",
            lambda r: f"{r['retrieval']['ratio']:.1%}",
        ),
        (
            "bytes a remembered token: keys and values, from the config",
            lambda r: f"{r['bytes']['keys_and_values_from_config']:.0f}",
        ),
        ("all tensors held", lambda r: f"{r['bytes']['held_tensors']:.0f}"),
        ("resident memory", lambda r: f"{r['bytes']['resident']:.0f}"),
        ("on disk", lambda r: f"{r['bytes']['on_disk']:.0f}"),
    ]
    for label, figure in lines:
        rows.append(f"| {label} | " + " | ".join(figure(r["results"]) for r in results) + " |")
    return "**Cost** on the same machine. `python benchmarks/longmem_speed.py [--dtype float32]`\n\n" + "\n".join(rows)


if __name__ == "__main__":
    main()
