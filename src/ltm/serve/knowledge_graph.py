"""A user's items seen as a graph of entities, observations and relations, as MCP's reference memory server has them.

Each entity, observation and relation is an item of its own, whose text says it in words that are found by a search and
read by a model: `"Tom" is of type "cat".`, `"Tom": likes fish` and `"Tom" -> "lives_with" -> "Ann"`, names as JSON
writes them. Whatever else the user said are observations of one entity, `user`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ltm.errors import LtmError
from ltm.serve.errors import ApiError
from ltm.serve.memory_items import MemoryItem, MemoryItems

NAME = r'"(?:[^"\\]|\\.)*"'
ENTITY = re.compile(rf"({NAME}) is of type ({NAME})\.")
RELATION = re.compile(rf"({NAME}) -> ({NAME}) -> ({NAME})")
OBSERVATION = re.compile(rf"({NAME}): (.*)", re.DOTALL)
USER = "user"
"""The entity of what the user said by other ways."""

Relation = tuple[str, str, str]
"""From, type, to."""


@dataclass
class GraphEntity:
    """items: ids of what says that it is there; observations: each with the id of the item that says it."""

    kind: str = "unknown"
    items: list[str] = field(default_factory=list)
    observations: dict[str, str] = field(default_factory=dict)


class KnowledgeGraph:
    """The graph of some items, and its changes, which are changes of items. Raises ApiError 404 for an entity that is
    not there.

    >>> KnowledgeGraph(items).create_entities([("Tom", "cat", ["likes fish"])])  # doctest: +SKIP
    """

    def __init__(self, items: MemoryItems):
        self.items = items
        self.entities: dict[str, GraphEntity] = {}
        self.relations: dict[Relation, str] = {}
        for item in items.said_by_user():
            self._take(item)

    def _take(self, item: MemoryItem) -> None:
        if (found := ENTITY.fullmatch(item.text)) and (names := _names(found.groups())):
            entity = self.entities.setdefault(names[0], GraphEntity())
            entity.kind = names[1]
            entity.items.append(item.id)
        elif (found := RELATION.fullmatch(item.text)) and (names := _names(found.groups())):
            self.relations[(names[0], names[1], names[2])] = item.id
        elif (found := OBSERVATION.fullmatch(item.text)) and (names := _names([found[1]])):
            self.entities.setdefault(names[0], GraphEntity()).observations[found[2]] = item.id
        else:
            self.entities.setdefault(USER, GraphEntity("person")).observations[item.text] = item.id

    def entity(self, name: str) -> GraphEntity:
        if name not in self.entities:
            raise ApiError(404, f"Entity with name {name[:80]} not found", "memory_not_found")
        return self.entities[name]

    def create_entities(self, entities: Iterable[tuple[str, str, Sequence[str]]]) -> list[str]:
        """Names of those that were not there; (name, type, observations)."""
        made = []
        for name, kind, observations in entities:
            if name in self.entities:
                continue
            self._take(self.items.add(_entity(name, kind)))
            self.add_observations(name, observations)
            made.append(name)
        return made

    def add_observations(self, name: str, observations: Sequence[str]) -> list[str]:
        """Those that were not there."""
        known = self.entity(name).observations
        new = [one for one in dict.fromkeys(observations) if one not in known]
        for one in new:
            self._take(self.items.add(_observation(name, one)))
        return new

    def create_relations(self, relations: Sequence[Relation]) -> list[Relation]:
        """Those that were not there."""
        for start, _, end in relations:
            self.entity(start), self.entity(end)
        new = [one for one in dict.fromkeys(relations) if one not in self.relations]
        for one in new:
            self._take(self.items.add(_related(one)))
        return new

    def delete_entities(self, names: Sequence[str]) -> list[str]:
        """Delete them with their observations and relations; those that were there."""
        there = [name for name in dict.fromkeys(names) if name in self.entities]
        gone = [item for name in there for item in (*self.entities[name].items, *self._observed(name))]
        gone += [item for (start, _, end), item in self.relations.items() if start in there or end in there]
        self.items.delete_all_of(gone)
        return there

    def _observed(self, name: str) -> list[str]:
        return list(self.entities[name].observations.values())

    def delete_observations(self, name: str, observations: Sequence[str]) -> int:
        """How many of them were there."""
        known = self.entity(name).observations
        return self.items.delete_all_of([known[one] for one in dict.fromkeys(observations) if one in known]).items

    def delete_relations(self, relations: Sequence[Relation]) -> int:
        """How many of them were there."""
        found = [self.relations[one] for one in dict.fromkeys(relations) if one in self.relations]
        return self.items.delete_all_of(found).items

    def matching(self, query: str) -> list[str]:
        """Names of entities that hold a query, whatever the case; where none does, those that a search for it finds."""
        low = query.lower()
        holding = [
            name
            for name, entity in self.entities.items()
            if any(low in text.lower() for text in (name, entity.kind, *entity.observations))
        ]
        if holding or not query.strip():
            return holding
        found = {one.id for one in self.items.search(query)}
        return [
            name for name, entity in self.entities.items() if found & {*entity.items, *entity.observations.values()}
        ]

    def take_in(self, lines: Sequence[dict[str, Any]]) -> int:
        """Add what a memory.jsonl holds and is not there yet; how many entities and relations are new."""
        entities = [one for one in lines if one["type"] == "entity"]
        made = self.create_entities([(one["name"], one["entityType"], one["observations"]) for one in entities])
        for one in entities:
            self.add_observations(one["name"], one["observations"])
        relations = [one for one in lines if one["type"] == "relation"]
        for name in {one[end] for one in relations for end in ("from", "to")} - set(self.entities):
            self.create_entities([(name, "unknown", [])])
        return len(made) + len(self.create_relations([_relation(one) for one in relations]))


def read_lines(file: Path) -> list[dict[str, Any]]:
    """Entities and relations of a memory.jsonl. Raises LtmError, naming the line, for what is none."""
    try:
        written = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise LtmError(f"{file} cannot be read: {error}; give a memory.jsonl") from None
    lines = []
    for number, line in enumerate(written, 1):
        if line.strip():
            lines.append(parsed_line(line, f"{file} line {number}"))
    return lines


def parsed_line(line: str, where: str) -> dict[str, Any]:
    """One line of a memory.jsonl."""
    try:
        one = json.loads(line)
        fields = {"entity": ("name", "entityType"), "relation": ("from", "to", "relationType")}[one["type"]]
        texts = [one[name] for name in fields] + list(one["observations"] if one["type"] == "entity" else [])
        if not all(isinstance(text, str) for text in texts):
            raise TypeError
    except (ValueError, KeyError, TypeError, RecursionError):
        raise LtmError(f"{where} is neither an entity nor a relation; nothing was taken in") from None
    return one


def statements(lines: Iterable[dict[str, Any]]) -> list[str]:
    """What lines of a memory.jsonl say, as texts of items, each once."""
    said = []
    for one in lines:
        if one["type"] == "relation":
            said.append(_related(_relation(one)))
        else:
            said.append(_entity(one["name"], one["entityType"]))
            said += [_observation(one["name"], text) for text in one["observations"]]
    return list(dict.fromkeys(said))


def _entity(name: str, kind: str) -> str:
    return f"{_quoted(name)} is of type {_quoted(kind)}."


def _observation(name: str, text: str) -> str:
    return f"{_quoted(name)}: {text}"


def _related(relation: Relation) -> str:
    return " -> ".join(map(_quoted, relation))


def _relation(line: dict[str, Any]) -> Relation:
    return line["from"], line["relationType"], line["to"]


def _quoted(name: str) -> str:
    return json.dumps(name, ensure_ascii=False)


def _names(quoted: Iterable[str]) -> list[str]:
    """Names as they are; none for what is no JSON."""
    try:
        return [json.loads(one) for one in quoted]
    except ValueError:
        return []
