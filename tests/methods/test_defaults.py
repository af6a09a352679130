"""Defaults are a paper's, or differ from it knowingly: a changed default fails here.

For each field that a paper gives a value: ours, the paper's, and where it stands. Where the two differ, the sentence
under the field names the paper's value. A method with a paper has a row; so has every field whose sentence names one.
"""

from __future__ import annotations

import re
from dataclasses import fields
from typing import Any, NamedTuple

import pytest

from ltm.cli.options import config_options
from ltm.learning.registry import LEARNERS
from ltm.methods import METHODS


class Pin(NamedTuple):
    """A default of ours, the paper's value ("same": the same), and where the paper or its released code has it."""

    ours: Any
    paper: Any
    where: str


SAME = "same"

PINS: dict[str, dict[str, Pin]] = {
    "longmem": {
        "reduction_factor": Pin(6, "2", "method, residual SideNet; released script: layer reduction factor 2"),
        "memory_layer": Pin(
            None, "17 of 24", "experimental setup: the 18th layer's keys and values; released script: 17, from zero"
        ),
        "copied_layer": Pin("first", "last", "released code: SideNet layer l is loaded from backbone layer 2l - 1"),
        "chunk_size": Pin(2, "4", "experimental setup: csz 4; released in-context-learning script: 2"),
        "memory_size": Pin(65536, SAME, "experimental setup: memory of 65k tokens"),
        "retrieved_tokens": Pin(32, "64", "experimental setup: K = 64 keys and values"),
        "fusion": Pin("gate", SAME, "method, memory fusion: a gate a head over two attentions"),
        "start": Pin("identity", "paper", "method, residual SideNet: layers copied from the backbone as they are"),
        "segment_size": Pin(256, "1,024", "experimental setup: segments of 1,024 tokens"),
        "local_window": Pin(1024, SAME, "experimental setup: segments of 1,024 tokens"),
        "shared_memory": Pin(False, "released", "released code: one bank a head for all rows of a batch"),
    },
    "memorizing": {
        "memory_layer": Pin(None, "9th of 12", "experiments: the 9th of 12 layers"),
        "top_k": Pin(32, SAME, "experiments; released configuration: 128"),
        "memory_size": Pin(65536, "262,144", "experiments: 1,536 to 262k; released configuration: 8,192"),
        "gate_start": Pin(0.05, "0.5", "method: a learned bias a head, which the released code starts at 0"),
        "segment_size": Pin(256, "512", "experiments: sequences of 512 tokens"),
    },
    "em_llm": {
        "retrieved_tokens": Pin(128, "2,048 to 4,096", "released configurations"),
        "recall_from_layer": Pin(None, "0", "method, memory retrieval: every layer retrieves"),
        "candidate_tokens": Pin(
            4096, "representative keys decide", "method, memory retrieval; InfLLM, block-level context memory"
        ),
        "contiguity": Pin(0.3, SAME, "experiments: 30% of the budget for the contiguity buffer"),
        "min_event_size": Pin(8, SAME, "released configurations"),
        "max_event_size": Pin(32, "128", "released configurations; InfLLM: blocks of 128"),
        "gamma": Pin(1.0, SAME, "method, surprise threshold; released configurations: 1"),
        "refine_from_layer": Pin(None, "20 of 32", "released code"),
        "representative": Pin("mean", "attended", "InfLLM, representative tokens: those that received most attention"),
        "representative_tokens": Pin(4, SAME, "InfLLM, experimental setup: 4 of each block"),
        "vote": Pin("softmax", "sum", "released code: inner products of all heads added up"),
        "num_sinks": Pin(32, "128", "InfLLM, experimental setup; released configurations"),
        "placement": Pin("ordered", "edge", "InfLLM, positional encoding: all remembered tokens at one distance"),
        "distance": Pin(256, "local_window - 1", "InfLLM, positional encoding: at the window's edge"),
        "local_window": Pin(1024, "4,096", "InfLLM, experimental setup; released configurations"),
        "stride": Pin(None, "512", "released configurations: 512 tokens at a time"),
        "memory_size": Pin(262144, "as in the paper", "experiments: no limit, pass keys to 10M tokens"),
        "offload": Pin(65536, "300,000", "released configurations: to disk above 300,000 tokens"),
    },
    "quest": {
        "page_size": Pin(16, SAME, "experiments: pages of 16 tokens; released code: --chunk_size 16"),
        "token_budget": Pin(1024, "256 to 4,096", "experiments: budgets of 256 to 4,096 tokens"),
        "dense_layers": Pin(2, SAME, "method: the first two layers are left dense, as little can be left out there"),
        "current_page": Pin("kept", "released", "released kernels: kept; released evaluation code: ranked"),
    },
    "sinks": {"num_sinks": Pin(4, SAME, "experiments: four initial tokens suffice")},
    "tova": {
        "budget": Pin(512, SAME, "released example: --multi_state_size 512"),
        "block": Pin(64, "1: after every token", "section 3.3: one token leaves for each that comes"),
        "heads": Pin("same", SAME, "section 3.3: the mean over a layer's heads"),
        "positions": Pin("true", SAME, "released code: position ids count every token that was seen"),
    },
    "h2o": {
        "budget": Pin(2048, SAME, "released code with real eviction: 1,024 heavy hitters and 1,024 recent tokens"),
        "recent": Pin(0.5, SAME, "experiments: half of the budget for recent tokens"),
        "block": Pin(64, "1: after every token", "algorithm 1: one token leaves for each that comes"),
        "heads": Pin("own", SAME, "algorithm 1: of each head"),
        "positions": Pin("true", SAME, "released summarization code; its streaming code rolls them"),
    },
    "rmt": {
        "memory_tokens": Pin(10, SAME, "experiments on WikiText-103; later code on WikiText-2: 2"),
        "local_window": Pin(150, SAME, "experiments on WikiText-103: segments of 150"),
        "stride": Pin(None, SAME, "section 3: segments do not overlap"),
        "lora_rank": Pin(0, "later script: 8", "paper: the whole model is trained; the later script: LoRA of rank 8"),
    },
    "lora": {
        "rank": Pin(8, SAME, "experiments: 1 to 64, 8 for GPT-3; PEFT's default"),
        "alpha": Pin(None, "the first rank tried", "section 4.1: alpha is set to the first rank tried"),
        "read_rate": Pin(1e-3, "2e-4", "PEFT's examples, over epochs; here two steps on what is read"),
    },
    "mora": {
        "rank": Pin(8, SAME, "experiments: 8 for instructions and mathematics, 128 and 256 for new facts"),
        "groups": Pin("rotate", SAME, "section 3, for small ranks; released code: type 6"),
        "read_rate": Pin(1e-3, "3e-4", "experiments, over epochs; here two steps on what is read"),
    },
    "rag": {"passage_words": Pin(100, SAME, "section 3: passages of 100 words")},
    "ewc": {"labels": Pin("drawn", SAME, "equation 3: the Fisher information, whose labels the model draws")},
}

ALL = {**METHODS, **LEARNERS}


@pytest.mark.parametrize("name", sorted(PINS))
def test_defaults_are_what_the_table_says(name):
    defaults = {field.name: field.default for field in fields(ALL[name].config_class)}
    assert {field: defaults[field] for field in PINS[name]} == {field: pin.ours for field, pin in PINS[name].items()}
    assert all(pin.where for pin in PINS[name].values())


@pytest.mark.parametrize("name", sorted(PINS))
def test_a_field_says_where_it_differs_from_its_paper(name):
    helps = {option.name: option.help for option in config_options(ALL[name].config_class)}
    for field, pin in PINS[name].items():
        assert pin.paper == SAME or pin.paper in helps[field], f"{name}.{field}: {pin.paper} is not in: {helps[field]}"


def test_every_method_with_a_paper_has_its_row():
    assert {name for name, method in ALL.items() if method.card.paper} == set(PINS)


@pytest.mark.parametrize("name", sorted(ALL))
def test_every_field_that_names_its_paper_is_pinned(name):
    named = [
        option.name for option in config_options(ALL[name].config_class) if re.search(r"\(paper|\bpaper\)", option.help)
    ]
    assert set(named) <= set(PINS.get(name, {})), "a sentence gives a paper's value that nothing holds"
