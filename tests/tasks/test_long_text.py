"""Long-text perplexity: rows worked by hand, documents cut where they should be, methods compared like with like."""

from __future__ import annotations

import gzip
import json
import math
from types import SimpleNamespace

import pytest
import torch

from ltm.errors import ConfigError, LtmError
from ltm.methods import create_method
from ltm.tasks.data import DataSource
from ltm.tasks.long_text import LongText, LongTextConfig, perplexity_interval, position_sums, wiki_articles

WIKI = """
 = First =

 Some text .
 = x =
 more of it

 = = Section = =

 end .

 = Second ( film ) =

 = = Plot = =

 = First =

 again
""".replace("=\n", "= \n")  # as the raw text has it


def record(document: str, parts: list[tuple[int, int, int, float]], kind: str = "books") -> dict:
    """A record with ranges (from, to, tokens, nats)."""
    positions = [{"from": a, "to": b, "tokens": t, "nats": n} for a, b, t, n in parts]
    tokens, nats = sum(p[2] for p in parts), sum(p[3] for p in parts)
    length = {"id": f"{kind}/{document}", "kind": kind, "document": document, "length": tokens + 1}
    return {**length, "ended_at": None, "tokens": tokens, "nats": nats, "positions": positions}


@pytest.fixture
def folder(tmp_path):
    """Two kinds: books with three documents of which one is too short, and raw WikiText."""
    (tmp_path / "books").mkdir()
    texts = {"a": "one two three " * 10, "empty": "x", "b": "four five six " * 20}
    lines = "\n".join(json.dumps({"id": name, "text": text}) for name, text in texts.items())
    (tmp_path / "books" / "test.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    (tmp_path / "wikitext2").mkdir()
    (tmp_path / "wikitext2" / "valid.txt").write_text(WIKI)
    return tmp_path


def task(tiny_backbone, folder=None, **options) -> LongText:
    return LongText(LongTextConfig(**options), DataSource(folder), tiny_backbone("tiny-llama").tokenizer)


def test_rows_by_hand(tiny_backbone):
    # a: 3 tokens of ln 2 each, then 1 of ln 32; b: 1 token of ln 8. All: exp((3 ln 2 + 5 ln 2 + 3 ln 2) / 5) = 2^(11/5)
    two = math.log(2)
    records = [
        record("a", [(0, 1024, 3, 3 * two), (1024, 2048, 1, 5 * two)]),
        record("b", [(0, 1024, 1, 3 * two)]),
    ]
    rows = task(tiny_backbone).summarise(records)
    values = {tuple(row.condition.items()): row.value for row in rows}
    assert values == {
        (("kind", "books"),): pytest.approx(2 ** (11 / 5)),
        (("kind", "books"), ("position", 1024)): pytest.approx(2 ** (6 / 4)),
        (("kind", "books"), ("position", 2048)): pytest.approx(2**5),
        (("kind", "books"), ("length", 1024)): pytest.approx(2 ** (11 / 5)),
    }
    first = rows[0]
    assert (first.metric, first.count, first.higher_is_better, first.extra) == ("perplexity", 2, False, {"tokens": 5})
    # of two documents the bootstrap draws a twice (2^2), b twice (2^3) or both
    assert (first.low, first.high) == (pytest.approx(4), pytest.approx(8))
    assert rows[2].extra["first_position"] == 1024 and rows[2].low is None  # one document has no interval


def test_interval_is_seeded_and_needs_two_documents():
    sums = [(2.0, 2), (9.0, 3), (4.0, 4), (30.0, 10)]
    assert perplexity_interval(sums, seed=3) == perplexity_interval(sums, seed=3)
    value, low, high = perplexity_interval(sums)
    assert low < value < high and value == pytest.approx(math.exp(45 / 19))
    assert perplexity_interval(sums[:1]) == (pytest.approx(math.e), None, None)


def test_places_double_and_count_from_the_first_token():
    parts = position_sums(torch.ones(2500))  # places 1 to 2500
    assert [(part["from"], part["to"], part["tokens"]) for part in parts] == [
        (0, 1024, 1023),
        (1024, 2048, 1024),
        (2048, 4096, 453),
    ]
    assert sum(part["nats"] for part in parts) == 2500


def test_common_keeps_what_all_methods_scored_whole():
    far = [record("a", [(0, 1024, 1023, 1.0), (1024, 2048, 500, 9.0)]), record("b", [(0, 1024, 9, 2.0)])]
    near = [record("a", [(0, 1024, 1023, 3.0), (1024, 2048, 100, 1.0)])]
    common = LongText.common({"far": far, "near": near})
    assert [(r["id"], r["tokens"], r["nats"]) for r in common["far"]] == [("books/a", 1023, 1.0)]
    assert [(r["id"], r["tokens"], r["nats"]) for r in common["near"]] == [("books/a", 1023, 3.0)]
    assert far[0]["tokens"] == 1523, "the records themselves stay as they are"
    assert LongText.common({"far": far})["far"] == far


def test_wiki_articles_are_cut_at_their_headings():
    articles = list(wiki_articles(WIKI))
    assert [title for title, _ in articles] == ["First", "Second ( film )", "First (2)"]
    assert articles[0][1].startswith("= First =") and articles[0][1].endswith("end .\n")
    assert "= x =" in articles[0][1]


def test_units_take_kinds_in_turn_and_leave_out_empty_documents(tiny_backbone, folder):
    units = list(task(tiny_backbone, folder, kinds="books", max_tokens=100).units())
    assert [(unit.key, unit.cost) for unit in units] == [("books/a", 100), ("books/b", 100)]
    wiki = task(tiny_backbone, folder, kinds="wikitext2", split="validation", documents=2).units()
    assert [unit.key for unit in wiki] == ["wikitext2/First", "wikitext2/Second ( film )"]


def test_a_method_scores_what_fits_and_the_record_says_so(tiny_backbone, folder):
    backbone = tiny_backbone("tiny-llama")
    (unit, _) = task(tiny_backbone, folder, kinds="books", max_tokens=60).units()
    (whole,) = unit.run(create_method("window", backbone, local_window=16))
    assert (whole["length"], whole["tokens"], whole["ended_at"]) == (60, 59, None)
    assert whole["nats"] == pytest.approx(sum(part["nats"] for part in whole["positions"]))

    class Ended(type(create_method("full", backbone))):  # type: ignore[misc]
        max_stream_tokens = 20

    (cut,) = unit.run(Ended(backbone, create_method("full", backbone).method_config))
    assert (cut["length"], cut["tokens"], cut["ended_at"]) == (60, 19, 20)
    json.dumps(cut)


def test_what_is_not_there_is_told(tiny_backbone, folder):
    with pytest.raises(LtmError, match="long_text.kinds"):
        list(task(tiny_backbone, folder, kinds="poems").units())
    with pytest.raises(LtmError, match=r"techdocs/test\.jsonl\.gz with --data"):
        list(task(tiny_backbone, kinds="techdocs").units())
    with pytest.raises(ConfigError, match="kinds.*documents=0.*max_tokens=1"):
        LongTextConfig(kinds=" , ", documents=0, max_tokens=1)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"not gzip", "damaged"),
        (gzip.compress(b"{}" * 99, mtime=0)[:-12], "damaged"),
        (gzip.compress(b"\xff", mtime=0), "damaged"),
        (gzip.compress(b'{"id": "a", "text": "fine words"}\n{"id":', mtime=0), r"books/test\.jsonl\.gz:2 is no JSON"),
    ],
    ids=["not gzip", "cut off", "no text", "no JSON"],
)
def test_damaged_files_are_told(tiny_backbone, folder, content, says):
    (folder / "books" / "test.jsonl.gz").write_bytes(content)
    with pytest.raises(LtmError, match=says):
        list(task(tiny_backbone, folder, kinds="books").units())


def test_public_sets_stand_in_where_no_folder_is_given(tiny_backbone):
    asked = []

    def public(path, *args, **kwargs):
        asked.append((path, *args))
        if path == "deepmind/pg19":
            return [{"short_book_title": "Walden", "text": "I went to the woods"}]
        return [{"text": line} for line in WIKI.splitlines(keepends=True)]

    stub = SimpleNamespace(folder=None, has=lambda *_: False, public=public)
    made = LongText(LongTextConfig(kinds="books,wikitext2"), stub, tiny_backbone("tiny-llama").tokenizer)  # type: ignore
    assert [unit.key for unit in made.units()][:2] == ["books/Walden", "wikitext2/First"]
    assert asked == [("deepmind/pg19",), ("Salesforce/wikitext", "wikitext-2-raw-v1")]


def test_ranges_end_where_a_compared_method_does():
    """`near` scores 4 tokens, `far` 9: to there they are compared, whatever `far` does afterwards."""
    ends = [5]
    near, far = (torch.full((count,), math.log(2)) for count in (4, 9))
    far[4:] = math.log(32)
    records = {}
    for name, losses in (("near", near), ("far", far)):
        parts = [tuple(part.values()) for part in position_sums(losses, ends)]
        records[name] = [record("a", parts)]
    assert [part["to"] for part in records["far"][0]["positions"]] == [5, 1024]
    common = LongText.common(records)
    assert common["near"] == records["near"] and common["far"][0]["tokens"] == 4
    assert common["far"][0]["nats"] == pytest.approx(4 * math.log(2))
    assert LongText.common({name: [record("a", [(0, 1024, 9, 1.0)])] for name in ("a", "b")})["a"][0]["nats"] == 1.0
