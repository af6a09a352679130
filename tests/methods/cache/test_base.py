"""The base of the rules: every hook by a rule made for it, sliding layers, positions, and what is refused."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from ltm.errors import ConfigError, LtmError
from ltm.methods import create_method
from ltm.methods.cache.attending import cut_blocks
from ltm.methods.cache.base import CacheFields, CacheRule, best_slots
from ltm.streams.kept import EMPTY

LENGTH = 37


@dataclass(frozen=True)
class Config(CacheFields):
    budget: int | None = 8
    block: int = 4


class Newest(CacheRule):
    """The least rule that there is: what came last stays."""

    name, config_class = "newest", Config

    def score(self, layer, held):
        return held.place.double()


def tokens(rows=1, length=LENGTH, seed=0):
    return torch.randint(5, 90, (rows, length), generator=torch.Generator().manual_seed(seed))


def logits(method, ids, **kwargs):
    with torch.no_grad():
        return method(ids, **kwargs).logits


def in_pieces(method, ids, size):
    stream = method.new_cache()
    found = [logits(method, ids[:, a : a + size], cache=stream) for a in range(0, ids.shape[1], size)]
    return torch.cat(found, dim=1), stream


@pytest.fixture
def llama(tiny_backbone):
    return tiny_backbone("tiny-llama", "float64")


def test_blocks_end_by_places_and_not_by_columns():
    places = torch.tensor([[5, 6, 7, 8, 9, 10], [EMPTY, 0, 1, EMPTY, 2, 3]])
    blocks = cut_blocks(places, 4)
    assert [(block.columns.start, block.columns.stop) for block in blocks] == [(0, 3), (3, 6)]
    assert [block.ending.tolist() for block in blocks] == [[True, False], [False, True]]
    assert cut_blocks(places[:, :2], 4)[-1].ending is None


def test_the_best_stay_and_of_equals_the_later():
    scores = torch.tensor([[[1.0, 3.0, 1.0, 9.0, 1.0]], [[float("inf"), 0.0, 0.0, 0.0, 5.0]]])
    held = torch.tensor([[[True, True, True, False, True]], [[True, True, False, True, False]]])
    assert best_slots(scores, held, 2).int().tolist() == [[[0, 1, 0, 0, 1]], [[1, 0, 0, 1, 0]]]
    room = torch.tensor([[3], [1]])
    assert best_slots(scores, held, room).int().tolist() == [[[0, 1, 1, 0, 1]], [[1, 0, 0, 0, 0]]]
    assert torch.equal(best_slots(scores, held, 9), held)


def test_a_share_of_what_was_seen_stays_where_it_is_more_than_the_budget(llama):
    method = Newest(llama, Config(budget=4, budget_share=0.5))
    _, stream = in_pieces(method, tokens(length=32), 32)
    assert {part.num_slots for part in stream.kept.parts} == {16}
    _, stream = in_pieces(Newest(llama, Config(budget=4)), tokens(length=32), 32)
    assert {part.num_slots for part in stream.kept.parts} == {4}


def test_a_budget_in_bytes(llama):
    """Keys and values of 6 layers, 2 heads, 16 channels of 8 bytes: 3,072 a token."""
    method = Newest(llama, Config(budget_bytes=5 * 3072 + 3000))
    _, stream = in_pieces(method, tokens(length=32), 32)
    assert {part.num_slots for part in stream.kept.parts} == {5}
    assert sum(t.nbytes for part in stream.kept.parts for t in part.dense.values()) == 5 * 3072
    assert Config.with_budget(tokens=9) == {"budget": 9} and Config.with_budget(num_bytes=9) == {"budget_bytes": 9}


def test_a_head_with_less_room_is_freed_where_it_has_a_part_of_its_own(llama):
    """As DuoAttention needs it: one head keeps all, the other the budget."""

    class Uneven(Newest):
        def room(self, layer, held):
            return torch.tensor([[10_000 if head == 0 else 8 for head in held.heads]])

    class Apart(Uneven):
        def head_groups(self, layer):
            return [[0], [1]]

    ids = tokens(2)
    found, stream = in_pieces(Uneven(llama, Config()), ids, LENGTH)
    also, other = in_pieces(Apart(llama, Config()), ids, 5)
    torch.testing.assert_close(found, also)
    together, apart = stream.kept, other.kept
    assert {part.num_slots for part in together.parts} == {LENGTH}
    assert [part.num_slots for part in apart.layers[0]] == [LENGTH, 9]
    assert apart.nbytes * LENGTH * 2 == together.nbytes * (LENGTH + 9)


def test_a_query_looks_where_its_rule_says(llama):
    """As SparQ and Quest: nothing leaves, and each query attends to some; here to what came at most 6 tokens ago."""

    class Near(Newest):
        def look(self, layer, held, query, seen):
            asked = held.place[:, :, -query.shape[2] :, None] - held.place[:, :, None]
            return seen & (asked < 6)

    class All(Newest):
        def look(self, layer, held, query, seen):
            return seen.repeat_interleave(query.shape[1] // seen.shape[1], dim=1)  # of query heads

    ids, unlimited = tokens(), Config(budget=None)
    full = logits(create_method("full", llama), ids)
    torch.testing.assert_close(logits(All(llama, unlimited), ids), full)
    near = logits(Near(llama, unlimited), ids)
    torch.testing.assert_close(in_pieces(Near(llama, unlimited), ids, 1)[0], near)
    assert float((near - full).abs().max()) > 1e-3
    torch.testing.assert_close(near[:, :6], full[:, :6])


def test_a_rule_is_told_what_the_queries_it_asks_about_gave(llama):
    """Weights sum to one for each query that asked, and are nothing for another row's."""
    told = []

    class Asks(Newest):
        def asks(self, layer, places):
            return (places % 3 == 0) & (places != EMPTY)

        def note(self, layer, held, weights, places):
            assert not weights.requires_grad
            told.append((layer, weights, places, held.place))

    ids, mask = tokens(2), torch.ones(2, LENGTH, dtype=torch.bool)
    mask[1, :10] = False
    logits(Asks(llama, Config()), ids, attention_mask=mask)
    for _, weights, places, held in told:
        assert weights.shape == (2, 2, 2, places.shape[1], held.shape[2])
        for row in range(2):
            for column, place in enumerate(places[row].tolist()):
                total = weights[row, :, :, column].sum(dim=-1)
                torch.testing.assert_close(total, torch.full_like(total, float(place != EMPTY)))
                later = held[row] > place
                assert float(weights[row, :, :, column].masked_fill(~later[:, None], 0).abs().max()) == 0
    asked = {place for layer, _, places, _ in told if layer == 0 for place in places[0].tolist()} - {EMPTY}
    assert asked == set(range(0, LENGTH, 3))


def test_what_leaves_can_be_summed_up(llama):
    """As LESS and CaM: the values of what left and of what is held are all values."""

    class Sums(Newest):
        def gone(self, layer, held, leaving):
            values = held.keys_values()[1].masked_fill(~leaving[..., None], 0).sum(dim=2)
            held.states["gone"] = held.states.get("gone", 0) + values

    ids = tokens(2)
    _, stream = in_pieces(Sums(llama, Config()), ids, 7)
    _, everything = in_pieces(Sums(llama, Config(budget=None)), ids, LENGTH)
    first, whole = stream.kept.layers[0][0], everything.kept.layers[0][0]
    assert "gone" not in whole.states and first.num_slots < LENGTH
    total = first.states["gone"] + first.keys_values()[1].sum(dim=2)
    torch.testing.assert_close(total, whole.keys_values()[1].sum(dim=2))


class Halved:
    """A codec in float32, which tells packed from dense in a float64 model."""

    def pack(self, keys, values):
        return {"keys": keys.to(torch.bfloat16), "values": values.to(torch.bfloat16)}

    def unpack(self, packed):
        return packed["keys"].double(), packed["values"].double()


def test_a_codec_keeps_whole_blocks_in_its_way(llama):
    """As ThinK, Eigen Attention and CSR: it does not matter in which pieces a text came, and bytes are saved."""

    class Coded(Newest):
        def codec(self, layer, held):
            return Halved()

    ids, mask = tokens(2), torch.ones(2, LENGTH, dtype=torch.bool)
    method = Coded(llama, Config())
    whole, stream = in_pieces(method, ids, LENGTH)
    torch.testing.assert_close(in_pieces(method, ids, 1)[0], whole)
    plain, other = in_pieces(Newest(llama, Config()), ids, LENGTH)
    assert 1e-6 < float((whole - plain).abs().max()) < 1
    assert stream.kept.nbytes < other.kept.nbytes / 2
    assert all(part.num_packed == 8 and part.num_slots == 9 for part in stream.kept.parts)
    mask[1, :10] = mask[1, 20:23] = False
    padded = logits(method, ids, attention_mask=mask)
    torch.testing.assert_close(padded[1, mask[1]], logits(method, ids[1:, mask[1]])[0])


@pytest.mark.parametrize("name", ["tiny-mistral", "tiny-gemma3"])
def test_sliding_layers_free_what_slid_out_of_their_window(tiny_backbone, name):
    """A budget above the window of 16 changes nothing for them, and takes no more than window and block."""
    backbone = tiny_backbone(name, "float64")
    ids = tokens(2, 61)
    method = Newest(backbone, Config(budget=1000))
    found, stream = in_pieces(method, ids, 13)
    torch.testing.assert_close(found, logits(create_method("full", backbone), ids), atol=1e-5, rtol=1e-4)
    windows = [backbone.view.sliding_window(layer) for layer in range(backbone.view.num_layers)]
    assert 16 in windows
    for window, layer in zip(windows, stream.kept.layers, strict=True):
        assert layer[0].num_slots == (61 if window is None else 16)
    _, stream = in_pieces(Newest(backbone, Config(budget=5)), ids, 13)
    assert {part.num_slots for part in stream.kept.parts} == {6}


def test_the_models_own_attention_does_not_matter(tiny_backbone):
    backbone, ids = tiny_backbone("tiny-qwen3"), tokens()
    method, found = Newest(backbone, Config()), {}
    before = backbone.model.config._attn_implementation
    try:
        for name in ("eager", "sdpa"):
            backbone.model.set_attn_implementation(name)
            found[name] = logits(method, ids)
    finally:
        backbone.model.set_attn_implementation(before)
    assert torch.equal(found["eager"], found["sdpa"])


def test_true_positions_end_and_positions_in_the_cache_do_not(llama):
    long = tokens(1, 513)
    with pytest.raises(LtmError, match=r"513 tokens are more than the backbone's 512 positions.*or positions='cache'"):
        Newest(llama, Config()).read(long)
    method = Newest(llama, Config(positions="cache"))
    assert (method.max_stream_tokens, Newest(llama, Config()).max_stream_tokens) == (None, 512)
    method.read(long)
    assert bool(logits(method, tokens()).isfinite().all())


def test_learned_positions_cannot_be_moved(tiny_backbone):
    gpt2 = tiny_backbone("tiny-gpt2")
    with pytest.raises(ConfigError, match="learned positions"):
        Newest(gpt2, Config(positions="cache"))
    with pytest.raises(LtmError, match="512 positions, and kept keys stand where they stood in the text; read less"):
        Newest(gpt2, Config()).read(tokens(1, 513))


def test_all_problems_of_a_config_are_told_together():
    with pytest.raises(ConfigError, match=r"budget=0(.|\n)*block=0(.|\n)*budget_share=2(.|\n)*positions='lost'"):
        Config(budget=0, block=0, positions="lost", budget_share=2)


def test_what_was_read_follows_the_model_to_another_dtype(tiny_backbone):
    """It is kept anew from the token ids, as a model of that dtype would have kept it."""
    from ltm.backbone import load_backbone

    moving = load_backbone("tiny-llama", dtype=torch.float64)
    method = Newest(moving, Config())
    method.read(tokens(2))
    method.to(torch.float32)
    expected = Newest(tiny_backbone("tiny-llama", "float32"), Config())
    expected.read(tokens(2))
    torch.testing.assert_close(logits(method, tokens(2, 5)), logits(expected, tokens(2, 5)), atol=1e-4, rtol=1e-4)
    assert method.memory.past.kept.parts[0].dense["keys"].dtype == torch.float32
