"""What mkdocs does beside its plugins: home page, API pages and log are put together from what is there.

The home page is README.md, its links as they are seen from docs/. The API has a page for each package, written into
docs/api, with every public module of it; the log's files stand in the navigation by their titles.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
DOCS, PACKAGE = ROOT / "docs", ROOT / "src" / "ltm"
LEFT_OUT = {"cli", "weights"}
"""Packages without an API: the command line has `ltm --help`."""


def on_config(config: Any) -> Any:
    values = [{"Every value": "bench.md"}] if (DOCS / "bench.md").exists() else []
    config["nav"] = [*config["nav"], *values, {"API": api_pages()}, {"Log": log_pages()}]
    return config


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    if page.file.src_uri != "index.md":
        return markdown
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    return readme.replace("](docs/", "](").replace("](CONTRIBUTING.md)", "](contributing.md)")


def api_pages() -> list[dict[str, str]]:
    """Write a page for the package itself and for each package in it; their titles and places."""
    folders = sorted(file.parent for file in PACKAGE.glob("*/__init__.py") if file.parent.name not in LEFT_OUT)
    pages = {"ltm": modules(PACKAGE, "*.py")}
    pages |= {f"ltm.{folder.name}": modules(folder, "**/*.py") for folder in folders}
    for gone in {file.stem for file in (DOCS / "api").glob("*.md")} - pages.keys():
        (DOCS / "api" / f"{gone}.md").unlink()
    for title, names in pages.items():
        blocks = [f"# {title}", *(f"::: {name}" for name in names)]
        write(DOCS / "api" / f"{title}.md", "\n\n".join(blocks) + "\n")
    return [{title: f"api/{title}.md"} for title in pages]


def modules(folder: Path, pattern: str) -> list[str]:
    """The modules below a folder that say what they are, by their dotted names."""
    found = []
    for file in sorted(folder.glob(pattern)):
        parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
        if file.name != "__init__.py" and not any(part.startswith("_") for part in parts):
            found.append(".".join(parts))
    return found


def log_pages() -> list[str | dict[str, str]]:
    """The index, then the newest first."""
    files = sorted((file for file in (DOCS / "log").glob("2*.md")), reverse=True)
    titles = [file.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ") for file in files]
    return ["log/index.md", *({title: f"log/{file.name}"} for title, file in zip(titles, files, strict=True))]


def write(path: Path, text: str) -> None:
    """Left as it is where it says this already, so that a server that watches it does not build again."""
    path.parent.mkdir(exist_ok=True)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")
