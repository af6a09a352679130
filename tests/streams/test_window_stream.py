"""Stream: what leaves the window and when, logical lengths, beams, and what it refuses."""

from __future__ import annotations

import pytest
import torch

from ltm.errors import ConfigError
from ltm.streams import Stream


def filled(*rows: list[int], window=4, stride=2, num_sinks=0) -> Stream:
    cache = Stream(window, stride, num_sinks)
    cache.begin(len(rows), torch.device("cpu"))
    longest = max(map(len, rows))
    ids = torch.tensor([[0] * (longest - len(row)) + row for row in rows])
    mask = torch.tensor([[False] * (longest - len(row)) + [True] * len(row) for row in rows])
    cache.append(ids, mask)
    cache.valid = mask
    return cache


def test_columns_fit_until_the_first_row_is_full():
    cache = filled([1, 2, 3], [7])
    incoming = torch.ones(2, 5, dtype=torch.bool)
    assert cache.columns_that_fit(incoming) == 1
    incoming[0, :3] = False  # padding takes no room: now the other row fills first
    assert cache.columns_that_fit(incoming) == 3


def test_only_full_rows_that_get_a_token_spill():
    cache = filled([1, 2, 3, 4], [5, 6, 7, 8], [9])
    assert cache.full_rows(torch.tensor([True, False, True])) == [0]


def test_the_oldest_tokens_leave_and_sinks_stay():
    cache = filled([1, 2, 3, 4], num_sinks=1)
    assert cache.drop_oldest(0).tolist() == [2, 3]
    assert cache.tokens[0].tolist() == [1, 4] and cache.stale
    assert cache.get_seq_length() == 4  # generate() counts what left too


def test_context_is_left_padded():
    ids, mask = filled([1, 2, 3], [7]).context()
    assert ids[mask].tolist() == [1, 2, 3, 7]
    assert mask.tolist() == [[True, True, True], [False, False, True]]


def test_beams_follow_their_rows_and_a_fork_counts_on_or_anew():
    cache = filled([1, 2], [3, 4])
    cache.reorder_cache(torch.tensor([1, 1]))
    assert [row.tolist() for row in cache.tokens] == [[3, 4], [3, 4]]
    assert cache.fork(torch.tensor([1, 0])).get_seq_length() == 2
    fork = cache.fork(torch.tensor([1, 0, 1]), into=cache.empty())
    assert len(fork.tokens) == 3 and fork.get_seq_length() == 0
    fork.append(torch.tensor([[5], [5], [5]]), torch.ones(3, 1, dtype=torch.bool))
    assert cache.tokens[0].tolist() == [3, 4]


@pytest.mark.parametrize(("window", "stride", "sinks"), [(4, 0, 0), (4, 5, 0), (4, 3, 2)])
def test_a_window_that_could_never_move_is_refused(window, stride, sinks):
    with pytest.raises(ConfigError, match="use a stride of 1 to"):
        Stream(window, stride, sinks)


def test_another_batch_size_and_rolling_back_are_refused():
    cache = filled([1], [2])
    with pytest.raises(ConfigError, match="3 rows came, but the cache holds 2"):
        cache.begin(3, torch.device("cpu"))
    with pytest.raises(ConfigError, match="cannot be rolled back"):
        cache.crop(-1)
