"""A user's items seen as text files below /memories, as Anthropic's memory tool (memory_20250818) has them.

A file is an item whose text is its path, a line end and its content: so a search finds it by either, and a model to
which it is recalled sees what it is called. An edit is a correction: the text before stays in the item's history.
"""

from __future__ import annotations

from collections.abc import Sequence

from ltm.serve.errors import ApiError, invalid
from ltm.serve.memory_items import MemoryItem, MemoryItems

ROOT = "/memories"
SHOWN_DEPTH, NUMBER_WIDTH, CONTEXT_LINES = 2, 6, 2
"""Levels of a directory that is viewed; columns of a line's number; lines shown around an edit."""


class MemoryFiles:
    """The commands of the tool; each gives what the model is told. Raises ApiError for what cannot be.

    >>> MemoryFiles(items).create("/memories/cat.txt", "Tom likes fish.")  # doctest: +SKIP
    'File created successfully at: /memories/cat.txt'
    """

    def __init__(self, items: MemoryItems):
        self.items = items
        named = [(item.text.split("\n", 1), item) for item in items.said_by_user()]
        self.files: dict[str, tuple[str, MemoryItem]] = {
            parts[0]: (parts[1], item) for parts, item in named if len(parts) == 2 and _is_path(parts[0])
        }

    def view(self, path: str, view_range: Sequence[int] | None = None) -> str:
        """A file with numbered lines (view_range: first and last, -1: the end), or what a directory holds."""
        path = checked_path(path)
        if path not in self.files:
            return self._listing(path)
        lines = self.files[path][0].split("\n")
        first, last = 1, len(lines)
        if view_range:
            if len(view_range) != 2:
                raise invalid("view_range holds the first and the last line, such as [1, 10]", "view_range")
            first, last = max(1, view_range[0]), len(lines) if view_range[1] == -1 else view_range[1]
        return f"Here's the content of {path} with line numbers:\n{_numbered(lines, first, last)}"

    def create(self, path: str, file_text: str) -> str:
        path = self._free(path)
        self.items.add(f"{path}\n{file_text}")
        return f"File created successfully at: {path}"

    def str_replace(self, path: str, old_str: str, new_str: str) -> str:
        """Put other words in the place of some that are there once."""
        path, (text, item) = self._file(path)
        count = text.count(old_str) if old_str else 0
        if count == 0:
            raise invalid(
                f"No replacement was performed, old_str `{old_str}` did not appear verbatim in {path}.", "old_str"
            )
        if count > 1:
            places = ", ".join(str(number) for number, line in enumerate(text.split("\n"), 1) if old_str in line)
            raise invalid(
                f"No replacement was performed. Multiple occurrences of old_str `{old_str}` in lines: {places}. "
                "Please ensure it is unique",
                "old_str",
            )
        changed = text[: text.find(old_str)].count("\n") + 1
        text = text.replace(old_str, new_str)
        self._write(path, text, item)
        shown = _numbered(text.split("\n"), changed - CONTEXT_LINES, changed + CONTEXT_LINES)
        return f"The memory file has been edited. Here is the snippet showing the change (with line numbers):\n{shown}"

    def insert(self, path: str, insert_line: int, insert_text: str) -> str:
        """Put lines behind a line; 0: at the beginning."""
        path, (text, item) = self._file(path)
        lines = text.splitlines()
        if not 0 <= insert_line <= len(lines):
            raise invalid(
                f"Invalid `insert_line` parameter: {insert_line}. It should be within the range [0, {len(lines)}].",
                "insert_line",
            )
        lines.insert(insert_line, insert_text.rstrip("\n"))
        self._write(path, "\n".join(lines) + "\n", item)
        return f"The file {path} has been edited."

    def delete(self, path: str) -> str:
        """Delete a file, or a directory with all that it holds, for good."""
        path = checked_path(path)
        if path == ROOT:
            raise invalid(f"Cannot delete the {ROOT} directory itself", "path")
        self.items.delete_all_of([self.files[name][1].id for name in self._within(path)])
        return f"Successfully deleted {path}"

    def rename(self, old_path: str, new_path: str) -> str:
        """Call a file, or a directory, otherwise."""
        old, new = checked_path(old_path), checked_path(new_path)
        names = self._within(old)
        if old == ROOT or new.startswith(f"{old}/"):
            raise invalid(f"Cannot rename {old} to {new}", "old_path")
        self._free(new)
        for name in names:
            text, item = self.files[name]
            self._write(new + name[len(old) :], text, item)
        return f"Successfully renamed {old} to {new}"

    def _write(self, path: str, text: str, item: MemoryItem) -> None:
        self.items.correct(item.id, f"{path}\n{text}")

    def _file(self, path: str) -> tuple[str, tuple[str, MemoryItem]]:
        path = checked_path(path)
        if path in self.files:
            return path, self.files[path]
        if self._is_directory(path):
            raise invalid(f"The path {path} is not a file.", "path")
        raise _missing(path)

    def _free(self, path: str) -> str:
        """A path at which nothing is, and nothing that is no directory is above it."""
        path = checked_path(path)
        if path in self.files or self._is_directory(path):
            raise invalid(f"File {path} already exists", "path")
        parts = path.split("/")
        for above in ("/".join(parts[:count]) for count in range(2, len(parts))):
            if above in self.files:
                raise invalid(f"The path {above} is not a directory.", "path")
        return path

    def _within(self, path: str) -> list[str]:
        """The file, or those in the directory."""
        names = [name for name in self.files if name == path or name.startswith(f"{path}/")]
        if not names:
            raise _missing(path)
        return names

    def _is_directory(self, path: str) -> bool:
        return path == ROOT or any(name.startswith(f"{path}/") for name in self.files)

    def _listing(self, path: str) -> str:
        if not self._is_directory(path):
            raise _missing(path)
        sizes: dict[str, int] = {path: 0}
        for name, (text, _) in sorted(self.files.items()):
            if name.startswith(f"{path}/"):
                size, parts = len(text.encode()), name[len(path) + 1 :].split("/")
                sizes[path] += size
                for count in range(1, min(len(parts), SHOWN_DEPTH) + 1):
                    shown = f"{path}/{'/'.join(parts[:count])}{'/' if count < len(parts) else ''}"
                    sizes[shown] = sizes.get(shown, 0) + size
        header = f"Here're the files and directories up to {SHOWN_DEPTH} levels deep in {path}, excluding hidden items:"
        shown_sizes = [(one, size) for one, size in sizes.items() if "/." not in one]
        return "\n".join([header, *(f"{_size(size)}\t{one}" for one, size in shown_sizes)])


def checked_path(path: str) -> str:
    """A path below /memories in its plainest form. Raises ApiError 400 for one that leads out of it."""
    parts = path.removesuffix("/").split("/")
    if parts[:2] != ["", "memories"]:
        raise invalid(f"Path must start with {ROOT}, got: {path[:80]}", "path")
    if not _is_path(path.removesuffix("/")) and len(parts) > 2:
        raise invalid(f"Path {path[:80]} would escape {ROOT} directory, or is none", "path")
    return path.removesuffix("/")


def _is_path(path: str) -> bool:
    parts = path.split("/")
    usual = all(part not in ("", ".", "..") and part.isprintable() for part in parts[2:])
    return parts[:2] == ["", "memories"] and len(parts) > 2 and usual


def _missing(path: str) -> ApiError:
    return ApiError(404, f"The path {path} does not exist. Please provide a valid path.", "memory_not_found", "path")


def _numbered(lines: Sequence[str], first: int, last: int) -> str:
    shown = enumerate(lines[max(first, 1) - 1 : max(last, 0)], max(first, 1))
    return "\n".join(f"{number:>{NUMBER_WIDTH}}\t{line}" for number, line in shown)


def _size(count: int) -> str:
    """Bytes, as `du -h` writes them."""
    value, unit = float(count), "B"
    for larger in ("K", "M", "G"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{value:.0f}{unit}" if value == int(value) else f"{value:.1f}{unit}"
