"""What tokenizers, collators, pipelines and generate() hand out is taken; what would be something else is told."""

from __future__ import annotations

import warnings

import pytest
import torch
from transformers import pipeline

from ltm.errors import LtmError
from ltm.methods import METHODS, Reader
from ltm.methods.inputs import left_padded

READERS = METHODS.of(Reader)


@pytest.fixture(params=["window", "longmem", "em_llm", "quest"])
def method(request, tiny_backbone):
    torch.manual_seed(1)
    made = METHODS[request.param](tiny_backbone("tiny-llama"), METHODS[request.param].config_class.tiny()).eval()
    made.read(tokens(2, 25, 7))
    return made


def tokens(rows, length, seed):
    return torch.randint(5, 90, (rows, length), generator=torch.Generator().manual_seed(seed))


def padded():
    """Ids, mask and positions as transformers has them, of a batch that is padded at the left."""
    ids, mask = tokens(2, 9, 1), torch.ones(2, 9, dtype=torch.long)
    mask[1, :4] = 0
    return ids, mask, (mask.cumsum(-1) - 1).masked_fill(mask == 0, 1)


GREEDY = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}


def test_positions_of_the_mask_and_token_types_change_nothing(method):
    ids, mask, positions = padded()
    types = torch.zeros_like(ids)
    plain = method(ids, attention_mask=mask).logits
    assert torch.equal(method(ids, attention_mask=mask, position_ids=positions, token_type_ids=types).logits, plain)
    cache = method.new_cache()
    pieces = [
        method(ids[:, part], attention_mask=mask[:, : part.stop], position_ids=positions[:, part], cache=cache).logits
        for part in (slice(0, 6), slice(6, 9))
    ]
    torch.testing.assert_close(torch.cat(pieces, dim=1)[mask.bool()], plain[mask.bool()], atol=1e-5, rtol=1e-4)
    out = method.generate(ids, attention_mask=mask, **GREEDY)
    given = {"position_ids": positions, "token_type_ids": types}
    assert torch.equal(method.generate(ids, attention_mask=mask, **given, **GREEDY), out)
    assert torch.equal(method.generate(ids, attention_mask=mask, num_beams=2, **given, **GREEDY)[:, :9], ids)


def test_other_positions_are_told(method):
    ids, mask, positions = padded()
    packed = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3, 4]]).expand(2, -1)
    for wrong in (packed, positions + 1, positions[:, :4], torch.arange(9)[None]):
        with pytest.raises(LtmError, match="position_ids .* leave position_ids out"):
            method(ids, attention_mask=mask, position_ids=wrong)
        with pytest.raises(LtmError, match="position_ids"):
            method.generate(ids, attention_mask=mask, position_ids=wrong, **GREEDY)
    assert method(ids, position_ids=torch.arange(9)[None]).logits.shape[1] == 9


def test_token_types_are_told_where_the_model_heeds_them(tiny_backbone):
    method = METHODS["window"](tiny_backbone("tiny-gpt2"), METHODS["window"].config_class.tiny())
    with pytest.raises(LtmError, match="GPT2LMHeadModel heeds token_type_ids"):
        method(tokens(1, 5, 1), token_type_ids=torch.zeros(1, 5, dtype=torch.long))


def test_right_padding_generates_what_left_padding_does_and_says_so(method):
    ids, mask, _ = padded()
    right, right_mask = ids.clone(), mask.flip(1)
    right[1] = torch.cat((ids[1, 4:], ids[1, :4]))
    out = method.generate(ids, attention_mask=mask, **GREEDY)
    with pytest.warns(UserWarning, match="padded at the right") as told:
        found = method.generate(right, attention_mask=right_mask, **GREEDY)
    assert sum("padded at the right" in str(one.message) for one in told) == 1
    assert torch.equal(found[:, 9:], out[:, 9:]) and torch.equal(found[:, :9], right)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        method.generate(ids, attention_mask=mask, **GREEDY)
    scored = method(right, attention_mask=right_mask).logits  # training pads at the right
    plain = method(ids, attention_mask=mask).logits
    torch.testing.assert_close(scored[1, :5], plain[1, 4:], atol=1e-5, rtol=1e-4)


def test_padding_moves_to_the_left_and_tokens_keep_their_order():
    ids, mask = torch.tensor([[1, 2, 0, 3, 0], [0, 0, 0, 0, 0]]), torch.tensor([[1, 1, 0, 1, 0], [0, 0, 0, 0, 0]])
    with pytest.warns(UserWarning, match="padded at the right"):
        moved, moved_mask = left_padded(ids, mask)
    assert moved.tolist() == [[0, 0, 1, 2, 3], [0] * 5] and moved_mask.tolist()[0] == [False, False, True, True, True]


def test_a_pipeline_generates_with_memory(method, tiny_backbone):
    tokenizer = tiny_backbone("tiny-llama").tokenizer
    method.reset(), method.read(tokens(2, 25, 7))
    pipe = pipeline("text-generation", model=method, tokenizer=tokenizer)
    texts = ["Ann went to sea", "Bob"]
    both = pipe(texts, batch_size=2, max_new_tokens=4, do_sample=False, return_full_text=False)
    given = tokenizer(texts, return_tensors="pt", padding=True, padding_side="left")
    out = method.generate(**given, max_new_tokens=4, do_sample=False)[:, given["input_ids"].shape[1] :]
    assert [one[0]["generated_text"] for one in both] == tokenizer.batch_decode(out, skip_special_tokens=True)
