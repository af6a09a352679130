"""EM-LLM against its naive reference, its pure functions against their definitions, and what is its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from reference.em_llm import (
    NaiveEmLlm,
    naive_cut_score,
    naive_refinement,
    naive_selection,
    naive_sizes,
)

from ltm.backbone import load_backbone
from ltm.bank import Bank
from ltm.errors import BankMismatchError, ConfigError
from ltm.methods import create_method
from ltm.methods.attention.em_llm import EmLlm, EmLlmConfig
from ltm.methods.attention.em_llm.segmentation import event_sizes, refine_boundaries
from ltm.methods.attention.em_llm.selection import attention_votes, head_products, select_events, votes
from ltm.text.session import Session

TINY = vars(EmLlmConfig.tiny())
VOCAB = 90


def tokens(count, seed=0, rows=1):
    return torch.randint(5, VOCAB, (rows, count), generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def backbone(tiny_backbone):
    return tiny_backbone("tiny-llama", "float64")


def build(backbone, **options):
    return EmLlm(backbone, EmLlmConfig(**{**TINY, **options})).eval()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {
            "segmentation": "blocks",
            "representative": "attended",
            "vote": "sum",
            "candidate_tokens": None,
            "recall_from_layer": 0,
        },
        {"refinement": "conductance", "placement": "edge", "contiguity": 0.5, "representative": "attended"},
        {"refinement": "none", "local_window": 12, "stride": 12, "num_sinks": 0},
        {"recall_from_layer": 3, "num_sinks": 3},
        {"recall_from_layer": 0, "early_candidates": 0.8, "candidate_tokens": 10},
    ],
    ids=["default", "blocks-as-published", "conductance-edge", "no-refinement-no-recent", "layers-from-3", "early"],
)
def test_equals_the_naive_reference(backbone, options):
    """Events, logits after reading, and logits of a stream that spills: the fast path is the slow one."""
    method, past, present = build(backbone, **options), tokens(37, 1), tokens(19, 2)
    naive = NaiveEmLlm(method)
    method.read(past)
    with torch.no_grad():
        naive.read(past[0])
        table = method.bank.event_table(0)
        assert [(e.first, e.size) for e in naive.memory.events] == list(zip(*(t.tolist() for t in table), strict=True))
        assert len(table.sizes) > 4
        fast, slow = method(present).logits[0], naive.score(present[0])
    torch.testing.assert_close(fast, slow, atol=2e-5, rtol=1e-4)  # angles are in float32


@pytest.mark.parametrize("stride", [1, 7, 16, 40])
def test_everything_in_the_window_equals_full_attention(backbone, stride):
    """Past and present within the window: the result of one pass over both, whatever the segments are."""
    past, present = tokens(29, 3, rows=2), tokens(11, 4, rows=2)
    full = backbone.model(torch.cat((past, present), dim=1)).logits[:, 29:]
    method = create_method("em_llm", backbone, local_window=80, stride=stride)
    method.read(past)
    torch.testing.assert_close(method(present).logits, full, atol=1e-5, rtol=1e-4)


def test_sliding_layers_see_recent_tokens_and_recall_nothing(tiny_backbone):
    """Gemma: within the window the result is the model's own, with its local layers as local as they are."""
    backbone = tiny_backbone("tiny-gemma3", "float64")
    past, present = tokens(29, 3), tokens(11, 4)
    full = backbone.model(torch.cat((past, present), dim=1)).logits[:, 29:]
    method = create_method("em_llm", backbone, local_window=80, stride=20)
    method.read(past)
    torch.testing.assert_close(method(present).logits, full, atol=1e-5, rtol=1e-4)
    assert method._recalling == [2, 5]


@pytest.mark.parametrize("metric", ["modularity", "conductance"])
@pytest.mark.parametrize("min_size", [1, 3])
def test_refinement_equals_its_definition(metric, min_size):
    keys = torch.randn(63, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).cumsum(0)
    similarity = keys @ keys.T + 3
    boundaries = [2, 3, 11, 20, 24, 40, 62]
    found = refine_boundaries(boundaries, similarity, metric, min_size)
    assert found == naive_refinement(boundaries, similarity, metric, min_size)
    assert found != boundaries and len(found) > 4


def test_modularity_of_two_separate_groups_is_best_between_them():
    """Worked by hand: two blocks of ones, 2 and 4 tokens. Cut between them: (4 + 16 - (16 + 256) / 20) / 40."""
    similarity = torch.block_diag(torch.ones(2, 2), torch.ones(4, 4)).double()
    assert naive_cut_score(similarity, 2, "modularity") == pytest.approx((20 - 272 / 20) / 40)
    assert refine_boundaries([5], similarity, "modularity", 1) == [2]


def test_candidates_by_layer():
    config = EmLlmConfig(candidate_tokens=4096, early_candidates=0.0625)
    assert [config.candidates(layer, 30, 262_144) for layer in (8, 10, 11, 29)] == [16_384, 16_384, 4096, 4096]
    assert config.candidates(8, 30, 8192) == 4096
    assert EmLlmConfig(candidate_tokens=None).candidates(0, 30, 262_144) is None


def test_event_sizes_by_hand():
    assert event_sizes([4, 6, 13], 20, 3, 8) == [4, 8, 1 + 7]  # 6 comes too soon; 4..13 is 8 and 1, too short
    assert event_sizes([], 20, 1, 8) == [8, 8, 4]
    for seed in range(20):
        random = torch.Generator().manual_seed(seed)
        boundaries = (torch.rand(100, generator=random) < 0.15).nonzero().squeeze(1).tolist()
        assert sum(event_sizes(boundaries, 100, 5, 16)) == 100
        assert max(event_sizes(boundaries, 100, 5, 16)) <= 16
    assert naive_sizes([4, 9], 20, 3, 8) == [4, 5, 8, 3]


@pytest.mark.parametrize("neighbours", [0, 9])
def test_selection_equals_the_loop(neighbours):
    for seed in range(30):
        random = torch.Generator().manual_seed(seed)
        scores = torch.randn(3, 25, generator=random, dtype=torch.float64)
        sizes = torch.randint(1, 9, (25,), generator=random)
        found = select_events(scores, sizes, 30, neighbours)
        for row, chosen in zip(scores.tolist(), found, strict=True):
            expected = naive_selection(row, sizes.tolist(), 30, neighbours)
            assert set(chosen.nonzero().squeeze(1).tolist()) == expected and len(expected) > 2
    assert bool(select_events(scores, sizes, 1000, 9).all())


def test_attention_votes_are_shares_of_one_softmax_with_the_sinks():
    """Of each query and head on its own; queries have candidates of different numbers of tokens."""
    random = torch.Generator().manual_seed(0)
    queries = torch.randn(3, 4, 8, dtype=torch.float64, generator=random)
    keys = torch.randn(2, 2 + 9, 8, dtype=torch.float64, generator=random)
    owner = torch.tensor([0, 0, 1, 1, 1, 2, 3, 3, 3])
    candidates = torch.tensor([[1, 0, 1, 1], [0, 1, 0, 0], [1, 1, 1, 1]]).bool()
    found = attention_votes(queries, keys, 2, owner, candidates, 0.3)
    for query, own, chosen in zip(queries, found, candidates, strict=True):
        expected = torch.zeros(4, dtype=torch.float64)
        for head in range(4):
            logits = keys[head // 2] @ query[head] * 0.3
            logits[2:][~chosen[owner]] = float("-inf")
            expected.index_add_(0, owner, torch.softmax(logits, dim=0)[2:])
        torch.testing.assert_close(own, expected.masked_fill(~chosen, float("-inf")))
    assert 1 < float(found[2].sum()) < 4  # the rest of four heads' shares is the sinks'


@pytest.mark.parametrize("num_sinks", [0, 3])
def test_votes_are_shares_of_one_softmax_with_the_sinks(num_sinks):
    random = torch.Generator().manual_seed(0)
    queries = torch.randn(2, 4, 8, dtype=torch.float64, generator=random)
    sinks, means = (torch.randn(2, n, 8, dtype=torch.float64, generator=random) for n in (num_sinks, 5))
    products = head_products(queries, means)
    found = votes(products, head_products(queries, sinks), "softmax", 0.3)
    expected = torch.zeros(2, 5, dtype=torch.float64)
    for query in range(2):
        for head in range(4):
            logits = torch.cat((sinks, means), dim=1)[head // 2] @ queries[query, head] * 0.3
            expected[query] += torch.softmax(logits, dim=0)[num_sinks:]
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(votes(products, products[..., :0], "sum", 0.3), products.sum(dim=1))


def released_cases():
    """Answers of the released code; benchmarks/measurements/parity_em_llm.py made them, and says how."""
    return json.loads((Path(__file__).parent / "em_llm_released.json").read_text())


def test_equals_the_released_code():
    """Inputs by seed, as in the script: refined boundaries, blocks cut at them, events recalled."""
    cases = released_cases()
    drawn = {}
    for tokens_in in (48, 150):
        for seed in range(8):
            random = torch.Generator().manual_seed(seed + 100)
            drawn[tokens_in, seed] = (torch.rand(tokens_in, generator=random) < 0.15).nonzero().squeeze(1).tolist()
    for case in cases["refinement"]:
        keys = torch.randn(48, 6, generator=torch.Generator().manual_seed(case["seed"])).cumsum(0)
        found = refine_boundaries(drawn[48, case["seed"]], (keys @ keys.T).abs(), case["metric"], 3)
        assert found == case["boundaries"]
    for case in cases["blocks"]:
        found = event_sizes(drawn[150, case["seed"]], 150, 5, 16)
        assert found[: len(case["sizes"])] == case["sizes"] and len(case["sizes"]) > 8
    for case in cases["selection"]:
        random = torch.Generator().manual_seed(case["seed"])
        scores, sizes = torch.randn(30, generator=random), torch.randint(2, 9, (30,), generator=random)
        assert select_events(scores[None], sizes, 40, 0)[0].nonzero().squeeze(1).tolist() == case["events"]
    assert [len(cases[name]) for name in ("refinement", "blocks", "selection")] == [12, 8, 12]


def test_a_saved_memory_answers_the_same(backbone, tmp_path):
    method, present = build(backbone), tokens(9, 5)
    document = None
    method.use_bank(method.new_bank(1))
    document = method.bank.add_document("a", text="x" * 37)
    method.read(
        tokens(37, 1), documents=[document], spans=torch.stack((torch.arange(37), torch.arange(1, 38)), -1)[None]
    )
    before = method(present).logits
    method.bank.save(tmp_path / "bank")
    method.read(tokens(11, 6))
    method.bank.save(tmp_path / "bank")  # appended as a shard of its own
    later = method(present).logits
    loaded = build(backbone)
    loaded.use_bank(Bank.load(tmp_path / "bank", fingerprint=backbone.fingerprint))
    assert loaded.bank.mapped_nbytes > 0
    torch.testing.assert_close(loaded(present).logits, later)
    assert float((later - before).abs().max()) > 1e-4


def test_a_deleted_document_is_as_if_never_read(backbone):
    method, present = build(backbone, memory_size=200), tokens(9, 5)
    method.use_bank(method.new_bank(1))
    kept = method.bank.add_document("kept")
    method.read(tokens(24, 1), documents=[kept])
    expected = method(present).logits
    gone = method.bank.add_document("gone")
    method.read(tokens(24, 2), documents=[gone])
    assert float((method(present).logits - expected).abs().max()) > 1e-4
    method.bank.delete_document(gone)
    torch.testing.assert_close(method(present).logits, expected)


def test_only_a_rebuilt_memory_has_no_trace_of_what_later_texts_looked_at(backbone):
    """As the module's text says: keys of a later document depend on the one that was there when it was read."""
    method, clean = build(backbone), build(backbone)
    method.use_bank(method.new_bank(1))
    gone, kept = (method.bank.add_document(name) for name in ("gone", "kept"))
    method.read(tokens(20, 1), documents=[gone])
    method.read(tokens(15, 2), documents=[kept])
    method.bank.delete_document(gone)
    clean.read(tokens(15, 2))
    after, never = (each.bank.entries(0, slice(0, 15), 5)[0] for each in (method, clean))
    assert after.shape == never.shape and float((after - never).abs().max()) > 1e-3
    first, other = (each.bank.entries(0, slice(0, 15), 0)[0] for each in (method, clean))
    torch.testing.assert_close(first, other)  # layer 0 has not looked at anything yet


def test_the_byte_budget_holds(backbone):
    method = build(backbone, memory_size=None, memory_bytes=150_000)
    for seed in range(4):
        method.read(tokens(60, seed))
    row = method.bank.rows[0]
    per_token, per_event = row.layout.bytes_per_chunk, row.layout.bytes_per_event
    assert 50_000 < row.num_tokens * per_token + row.events.count * per_event <= 150_000
    assert method.bank.nbytes <= 150_000
    with pytest.raises(ConfigError, match="memory_bytes=10 holds no chunk"):
        build(backbone, memory_bytes=10).read(tokens(5))


def test_offloaded_memory_answers_the_same(backbone):
    """Keys and values in mapped temporary files beyond 16 tokens."""
    past, present = tokens(37, 1), tokens(9, 5)
    inside, outside = build(backbone), build(backbone, offload=16)
    inside.read(past)
    outside.read(past)
    assert outside.bank.layout.fields["keys"].offload == 16
    assert torch.equal(inside(present).logits, outside(present).logits)


@pytest.mark.parametrize("storage, near", [("float32", 1e-5), ("int8", 0.02), ("int4", 0.3)])
def test_a_memory_in_codes_is_read_saved_and_loaded(backbone, tmp_path, storage, near):
    """Nearer to the exact memory's logits than these are to those without a memory, and the same after loading."""
    whole = {
        "segmentation": "blocks",
        "retrieved_tokens": 60,
        "candidate_tokens": None,
        "memory_size": 60,
    }  # no choice to tip over
    exact, small, empty = (build(backbone, **whole, key_storage=s, value_storage=s) for s in (None, storage, None))
    past, present = tokens(60, 1), tokens(21, 2)
    for method in (exact, small):
        method.read(past)
    with torch.no_grad():
        expected, found, without = (method(present).logits for method in (exact, small, empty))
    assert 0 < (found - expected).abs().mean() < near * (without - expected).abs().mean()
    small.bank.save(tmp_path / "bank")
    again = build(backbone, **whole, key_storage=storage, value_storage=storage)
    again.use_bank(Bank.load(tmp_path / "bank", fingerprint=backbone.fingerprint))
    with torch.no_grad():
        torch.testing.assert_close(again(present).logits, found)
    center = small.bank.layout.key_center
    assert (center is None) == (storage == "float32")
    assert center is None or torch.equal(center, again.new_bank(2).layout.key_center)


def test_a_trace_names_what_was_recalled(backbone):
    """Not what stands in the window or is a sink. Weights are shares of one softmax, so that what one token used adds
    up to less than 1; another question recalls something else."""
    method, found = build(backbone), []
    method.read(tokens(37, 1))
    recent = method.method_config.recent_size
    assert recent and method.method_config.num_sinks
    for question in (2, 3):
        with method.trace() as trace:
            method.generate(tokens(5, question), max_new_tokens=3, min_new_tokens=3, do_sample=False, pad_token_id=0)
        used = trace.tokens(0)
        slots = [chunk.slot for own in used for chunk in own]
        assert len(used) == 7 and all(method.method_config.num_sinks <= slot < 37 - recent for slot in slots)
        assert all(0.01 < sum(chunk.weight for chunk in own) < 1 for own in used)
        found.append(trace.total(0))
    assert found[0] != found[1]


def test_a_bank_of_another_kind_is_refused(backbone):
    longmem = create_method("memorizing", backbone)
    with pytest.raises(BankMismatchError, match="keeps no events"):
        build(backbone).use_bank(longmem.new_bank(1))


def test_a_wrong_config_tells_all_its_problems():
    with pytest.raises(ConfigError) as caught:
        EmLlmConfig(
            retrieved_tokens=0, refinement="best", max_event_size=4, contiguity=1, stride=5000, early_candidates=2
        )
    assert len(caught.value.problems) == 6


@pytest.mark.parametrize("setting", ["recall_from_layer", "refine_from_layer"])
def test_a_layer_that_is_not_there_is_refused_at_once(backbone, setting):
    layers = backbone.view.num_layers
    with pytest.raises(ConfigError, match=f"{setting}={layers}; the backbone has layers 0 to {layers - 1}"):
        build(backbone, **{setting: layers})


@pytest.mark.slow
def test_smollm2_names_the_passage_of_its_answer_though_it_stands_early():
    """What stood in the window was named before, the last 2.4% of the text whatever was asked."""
    session = Session(create_method("em_llm", load_backbone("smollm2-135m"), local_window=512))
    fact = "The harbour master of Lindow keeps his brass telescope in a green tin under the chapel stairs."
    filler = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again. "
    session.read(f"{filler * 12}\n\n{fact}\n\n{filler * 60}", "text")
    answer = session.ask("Where does the harbour master of Lindow keep his telescope?", max_new_tokens=16, trace=True)
    assert "brass telescope" in answer.passages[0].text
    assert all(passage.end < len(filler) * 66 for passage in answer.passages)


@pytest.mark.slow
def test_smollm2_says_a_number_beyond_its_window():
    """A window of 512, some 2,000 tokens read; asked by the sentence's beginning, which it can go on with."""
    backbone = load_backbone("smollm2-135m")
    said = {}
    for name in ("em_llm", "window"):
        method = create_method(name, backbone, local_window=512)
        filler = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again. " * 40
        if name == "em_llm":
            text = f"{filler}\n\nThe harbour master's number is 71432.\n\n{filler}"
            method.read(backbone.tokenizer(text, return_tensors="pt")["input_ids"])
        prompt = backbone.tokenizer("\n\nThe harbour master's number is", return_tensors="pt")["input_ids"]
        out = method.generate(prompt, max_new_tokens=9, do_sample=False)
        said[name] = backbone.tokenizer.decode(out[0, prompt.shape[1] :])
    assert "71432" in said["em_llm"] and "71432" not in said["window"]
