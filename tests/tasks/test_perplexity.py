"""Losses of a stream against examples worked by hand, and every method on the same tokens."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from ltm.streams.open_stream import OpenStream
from ltm.streams.scoring import PIECE_TOKENS, score_stream
from ltm.tasks.perplexity import DocumentScore, PerplexityResult, doubling_edges

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
    result = PerplexityResult([DocumentScore("a", score_stream(uniform(), ids))], 1.0)  # type: ignore[arg-type]
    assert result.tokens == length - 1
    assert result.perplexity == pytest.approx(VOCAB, rel=1e-6)  # float32 log of 7, summed


def test_documents_are_weighed_by_their_tokens():
    # after token 0 the model gives token 1 a logit of ln 3 and the six others 0: p = 3 / (3 + 6) = 1/3
    # 1 token at p = 1/3 and 2 tokens at p = 1/7: exp((ln 3 + 2 ln 7) / 3) = 147 ** (1/3)
    table = torch.zeros(VOCAB, VOCAB)
    table[0, 1] = math.log(3)
    losses = [score_stream(TableModel(table), torch.tensor(ids)) for ids in ([0, 1], [2, 3, 4])]  # type: ignore[arg-type]
    result = PerplexityResult([DocumentScore("", own) for own in losses], 1.0)
    assert PerplexityResult(result.documents[:1], 1.0).nats == pytest.approx(math.log(3), rel=1e-6)
    assert result.perplexity == pytest.approx(147 ** (1 / 3), rel=1e-6)
    assert math.isnan(PerplexityResult([], 1.0).perplexity)


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


def test_progress_counts_tokens():
    seen: list[int] = []
    score_stream(uniform(window=3), torch.arange(5), progress=seen.append)  # type: ignore[arg-type]
    assert seen == [3, 2]


def test_edges_double():
    assert doubling_edges(3000) == [0, 1024, 2048, 4096]


def test_real_methods_score_the_same_tokens_and_agree_where_they_must():
    from ltm.backbone import load_backbone
    from ltm.methods import create_method

    backbone = load_backbone("tiny-llama")
    ids = torch.randint(256, (50,), generator=torch.Generator().manual_seed(1))
    full = score_stream(create_method("full", backbone), ids)
    wide = score_stream(create_method("window", backbone, local_window=64), ids)
    narrow = score_stream(create_method("window", backbone, local_window=8, stride=8), ids)
    expected = torch.nn.functional.cross_entropy(
        backbone.model(ids[None]).logits[0, :-1].float(), ids[1:], reduction="none"
    )
    torch.testing.assert_close(full, expected, atol=1e-4, rtol=1e-4)  # attention in pieces
    torch.testing.assert_close(wide, expected, atol=1e-4, rtol=1e-4)
    assert len(full) == len(narrow) == 49
    assert abs(float(narrow.sum() - full.sum())) > 1e-2
    with torch.no_grad():  # the 9th token is predicted by the whole first window, the 10th by the 9th alone
        alone = backbone.model(ids[None, 8:9]).logits[0, -1].float()
    assert float(narrow[8]) == pytest.approx(-float(alone.log_softmax(-1)[ids[9]]), abs=1e-4)
