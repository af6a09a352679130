"""The metric against examples worked by hand, and every method on the same tokens."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from ltm.errors import LtmError
from ltm.streams.open_stream import OpenStream
from ltm.streams.scoring import PIECE_TOKENS, score_stream
from ltm.tasks.perplexity import (
    DocumentScore,
    PerplexityResult,
    compare,
    doubling_edges,
    perplexity,
)

VOCAB = 7


class TableModel:
    """A method whose next-token logits depend on the last token alone: row i of a table. Counts what it is given."""

    device = torch.device("cpu")

    def __init__(self, table: torch.Tensor, window: int | None = None, max_stream_tokens: int | None = None):
        self.table, self.window, self.max_stream_tokens = table, window, max_stream_tokens
        self.pieces: list[list[int]] = []
        self.resets = self.caches = 0

    def reset(self) -> None:
        self.resets += 1

    def stream(self, memory: object) -> OpenStream:
        self.caches += 1
        return OpenStream(self, SimpleNamespace(window=self.window), memory, [0])  # type: ignore[arg-type]

    def __call__(self, ids: torch.Tensor, cache: SimpleNamespace, use_cache: bool, **others: object) -> SimpleNamespace:
        assert use_cache and cache.window == self.window
        self.pieces.append(ids[0].tolist())
        return SimpleNamespace(logits=self.table[ids])


def uniform(**options: int | None) -> TableModel:
    return TableModel(torch.zeros(VOCAB, VOCAB), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("length", [2, 3, PIECE_TOKENS, PIECE_TOKENS + 1, 2 * PIECE_TOKENS + 5])
def test_uniform_logits_give_the_vocabulary_size(length):
    ids = torch.arange(length) % VOCAB
    result = perplexity(uniform(), [("a", ids)])
    assert result.tokens == length - 1
    assert result.perplexity == pytest.approx(VOCAB, rel=1e-6)  # float32 log of 7, summed


def test_two_tokens_by_hand():
    # after token 0 the model gives token 1 a logit of ln 3 and the six others 0: p = 3 / (3 + 6) = 1/3
    table = torch.zeros(VOCAB, VOCAB)
    table[0, 1] = math.log(3)
    result = perplexity(TableModel(table), [("a", torch.tensor([0, 1]))])
    assert result.nats == pytest.approx(math.log(3), rel=1e-6)
    assert result.perplexity == pytest.approx(3, rel=1e-6)


def test_documents_are_weighed_by_their_tokens():
    # 1 token at p = 1/3 and 2 tokens at p = 1/7: exp((ln 3 + 2 ln 7) / 3) = 147 ** (1/3)
    table = torch.zeros(VOCAB, VOCAB)
    table[0, 1] = math.log(3)
    result = perplexity(TableModel(table), [("a", torch.tensor([0, 1])), ("b", torch.tensor([2, 3, 4]))])
    assert result.perplexity == pytest.approx(147 ** (1 / 3), rel=1e-6)
    assert [document["tokens"] for document in result.to_dict()["documents"]] == [1, 2]


@pytest.mark.parametrize("window", [None, 3, 4, 100])
def test_pieces_do_not_change_a_score(window):
    table = torch.randn(VOCAB, VOCAB, generator=torch.Generator().manual_seed(0))
    ids = torch.tensor([0, 3, 3, 1, 6, 2, 5, 4, 0, 1, 1])
    expected = -table.log_softmax(-1)[ids[:-1], ids[1:]]
    method = TableModel(table, window=window)
    losses = score_stream(method, ids)  # type: ignore[arg-type]
    torch.testing.assert_close(losses, expected)
    assert [token for piece in method.pieces for token in piece] == ids.tolist()
    assert max(map(len, method.pieces)) == min(window or PIECE_TOKENS, len(ids))


def test_documents_share_nothing_and_progress_counts_tokens():
    method, seen = uniform(), []
    perplexity(method, [("a", torch.arange(3)), ("b", torch.arange(4))], progress=seen.append)  # type: ignore[arg-type]
    assert method.caches == 2 and method.resets == 3  # before each document, and afterwards
    assert seen == [3, 4]


def test_max_tokens_and_the_end_of_positions_cut_documents():
    ids = torch.arange(6)
    assert perplexity(uniform(), [("a", ids)], max_tokens=4).tokens == 3  # type: ignore[arg-type]
    assert perplexity(uniform(max_stream_tokens=3), [("a", ids)], max_tokens=4).tokens == 2  # type: ignore[arg-type]


def test_comparison_uses_the_tokens_that_all_scored():
    # `far` scores all 5 tokens, the last 3 of them badly; `near` only fits 3 tokens, scoring 2
    good, bad = math.log(2), math.log(32)
    far = PerplexityResult([DocumentScore("a", torch.tensor([good, good, bad, bad, bad]))], 1.0)
    near = PerplexityResult([DocumentScore("a", torch.tensor([good, good]))], 1.0)
    table = compare({"far": far, "near": near})
    assert table["far"]["perplexity"] == pytest.approx(2 ** (17 / 5))
    assert table["far"]["common"] == {
        "tokens": 2,
        "nats": pytest.approx(2 * good),
        "perplexity": pytest.approx(2),
    }
    assert table["near"]["common"]["perplexity"] == table["near"]["perplexity"] == pytest.approx(2)


def test_positions_count_from_the_start_of_each_document():
    losses = [torch.full((4,), math.log(2)), torch.full((2,), math.log(8))]  # places 1-4, and 1-2
    result = PerplexityResult([DocumentScore(str(i), loss) for i, loss in enumerate(losses)], 1.0)
    rows = result.by_position([0, 3, 5, 9])
    assert [(row["from"], row["to"], row["tokens"]) for row in rows] == [(0, 2, 4), (3, 4, 2)]
    assert [row["perplexity"] for row in rows] == pytest.approx([4, 2])  # sqrt(2 * 8), and 2
    assert doubling_edges(3000) == [0, 1024, 2048, 4096]


def test_a_document_without_a_second_token_counts_nothing():
    assert perplexity(uniform(), [("a", torch.arange(1)), ("b", torch.arange(2))]).tokens == 1  # type: ignore[arg-type]
    with pytest.raises(LtmError, match="two tokens"):
        perplexity(uniform(), [("a", torch.arange(1))])  # type: ignore[arg-type]


def test_real_methods_score_the_same_tokens_and_agree_where_they_must():
    from ltm.backbone import load_backbone
    from ltm.methods import create_method

    backbone = load_backbone("tiny-llama")
    ids = torch.randint(256, (50,), generator=torch.Generator().manual_seed(1))
    full = perplexity(create_method("full", backbone), [("a", ids)])
    wide = perplexity(create_method("window", backbone, local_window=64), [("a", ids)])
    narrow = perplexity(create_method("window", backbone, local_window=8, stride=8), [("a", ids)])
    expected = torch.nn.functional.cross_entropy(
        backbone.model(ids[None]).logits[0, :-1].float(), ids[1:], reduction="none"
    )
    torch.testing.assert_close(full.documents[0].losses, expected, atol=1e-4, rtol=1e-4)  # attention in pieces
    torch.testing.assert_close(wide.documents[0].losses, expected, atol=1e-4, rtol=1e-4)
    assert full.tokens == narrow.tokens == 49
    assert abs(narrow.nats - full.nats) > 1e-2
    with torch.no_grad():  # the 9th token is foretold by the whole first window, the 10th by the 9th alone
        alone = backbone.model(ids[None, 8:9]).logits[0, -1].float()
    assert narrow.documents[0].losses[8] == pytest.approx(-float(alone.log_softmax(-1)[ids[9]]), abs=1e-4)
