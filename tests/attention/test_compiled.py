"""A backbone that torch.compile has been at: the same numbers as plain, or a refusal; never others without a word."""

from __future__ import annotations

import copy

import pytest
import torch

from ltm.backbone import load_backbone
from ltm.errors import LtmError
from ltm.methods import METHODS


def tokens(length, seed):
    return torch.randint(5, 90, (1, length), generator=torch.Generator().manual_seed(seed))


def forward_of(model):
    model.forward = torch.compile(model.forward, backend="eager")


def in_place(model):
    model.compile(backend="eager")


def layers_in_place(model):
    for layer in model.model.layers:
        layer.compile(backend="eager")


def decoder_wrapped(model):
    model.model = torch.compile(model.model, backend="eager")


def forward_of_layers(model):
    for layer in model.model.layers:
        layer.forward = torch.compile(layer.forward, backend="eager")


WAYS = [forward_of, in_place, layers_in_place, decoder_wrapped, forward_of_layers]
CASES = [("em_llm", way) for way in WAYS] + [
    ("longmem", forward_of),
    ("memorizing", layers_in_place),
    pytest.param("quest", in_place, marks=pytest.mark.slow),
]


def build(name, backbone):
    torch.manual_seed(1)
    return METHODS[name](backbone, METHODS[name].config_class.tiny()).eval()


@pytest.mark.parametrize(("name", "way"), CASES)
def test_a_compiled_backbone_gives_the_same(name, way):
    """Off by 5.2 of 4.0 before: what is attached is no part of the compiled graph."""
    backbone = load_backbone("tiny-llama")
    method, found = build(name, backbone), []
    for change in (None, way):
        if change is not None:
            change(backbone.model)
        method.reset()
        with torch.no_grad():
            method.read(tokens(37, 7))
            found.append(method(tokens(15, 1)).logits)
    assert torch.equal(*found)


@pytest.mark.parametrize("way", [forward_of, forward_of_layers])
def test_a_sidenet_made_from_a_compiled_backbone_is_its_own(way):
    """A layer's copy must not run the original, which a forward set on the instance is bound to."""
    plain, compiled = load_backbone("tiny-llama"), load_backbone("tiny-llama")
    way(compiled.model)
    found = []
    for backbone in (plain, compiled):
        method = build("longmem", backbone)
        with torch.no_grad():
            for parameter in method.sidenet.layers.parameters():
                parameter.mul_(1.5)
            method.read(tokens(37, 7))
            found.append(method(tokens(15, 1)).logits)
    assert torch.equal(*found)


def test_a_copy_whose_forward_is_the_original_s_is_refused():
    backbone = load_backbone("tiny-llama")
    forward_of(backbone.model)
    copied = copy.deepcopy(backbone)
    with pytest.raises(LtmError, match="ran past what is attached"):
        build("em_llm", copied).read(tokens(37, 7))


def test_a_compiled_method_gives_the_same():
    method, found = build("em_llm", load_backbone("tiny-llama")), []
    compiled = torch.compile(method, backend="eager")
    for run in (method, compiled):
        method.reset()
        with torch.no_grad():
            run.read(tokens(37, 7))
            found += [run(tokens(15, 1)).logits, run.generate(tokens(5, 1), max_new_tokens=3, pad_token_id=0)]
    assert torch.equal(found[0], found[2]) and torch.equal(found[1], found[3])


@pytest.mark.skipif(torch.__version__.startswith("2.6."), reason="torch 2.6 compiles a bound method without its self")
def test_a_compiled_verb_gives_the_same():
    method, found = build("em_llm", load_backbone("tiny-llama")), []
    for read in (method.read, torch.compile(method.read, backend="eager")):
        method.reset()
        with torch.no_grad():
            read(tokens(37, 7))
            found.append(method(tokens(15, 1)).logits)
    assert torch.equal(*found)


def test_compiled_code_is_used_again_when_nothing_is_attached():
    backbone = load_backbone("tiny-llama")
    method, ran = build("longmem", backbone), []

    def backend(graph, inputs):
        ran.append(graph)
        return graph.forward

    backbone.model.model.layers[0].mlp.compile(backend=backend)
    method.read(tokens(37, 7))
    method(tokens(15, 1))
    assert not ran
    backbone.model(tokens(9, 2))
    assert ran
