"""Exercises: what is asked was stated before, far enough away; the same arguments give the same documents."""

from __future__ import annotations

import re
from collections import defaultdict

import pytest

from ltm.errors import LtmError
from ltm.training import Corpus, exercises

NUM_SENTENCES = 300


def text_of(word: str) -> str:
    """A text each sentence of which tells where it is from."""
    return " ".join(f"The {word} of number {n} stands in the {word} near another {word}." for n in range(NUM_SENTENCES))


TEXTS = [text_of(word) for word in ("lantern", "harness", "cabinet", "orchard")]


@pytest.fixture(scope="module")
def documents():
    return exercises(TEXTS, 40, num_chars=12_000)


def of_form(documents, form: str) -> list[str]:
    found = [document.text for document in documents if document.name.startswith(form)]
    assert len(found) == 10
    return found


def test_same_arguments_give_the_same(documents):
    assert exercises(TEXTS, 40, num_chars=12_000) == documents
    assert exercises(TEXTS, 40, num_chars=12_000, seed=1) != documents


def test_lengths(documents):
    assert all(9_000 < len(document.text) < 15_000 for document in documents)


def test_every_fact_is_asked_twice_after_half(documents):
    names = r"(?:Ada|Bruno|Cleo|Dmitri|Elsa|Farid|Gita|Hugo|Ines|Jonas|Kira|Lars|Mina) [A-Z][a-z]+"
    for text in of_form(documents, "facts"):
        places = defaultdict(list)
        for match in re.finditer(names, text):
            places[match.group()].append(match.start())
        assert len(places) == 10
        for found in places.values():
            assert found[0] < len(text) * 0.55
            assert sum(place > len(text) * 0.45 for place in found) >= 2


def test_a_label_tells_the_text(documents):
    for text in of_form(documents, "labels"):
        label_of = defaultdict(set)
        for word, label in re.findall(r"The (\w+) of number .*?(?:\n\w+: | => )([a-z]+)\n", text):
            label_of[word].add(label)
        assert 2 <= len(label_of) <= 4
        assert all(len(labels) == 1 for labels in label_of.values())
        assert len(set.union(*label_of.values())) == len(label_of)


def test_labels_mean_nothing_beforehand(documents):
    """The same text has other labels in other documents."""
    labels = defaultdict(set)
    for text in of_form(documents, "labels"):
        for word, label in re.findall(r"The (\w+) of number .*?(?:\n\w+: | => )([a-z]+)\n", text):
            labels[word].add(label)
    assert all(len(found) > 2 for found in labels.values())


def test_a_list_comes_twice_in_another_order(documents):
    for text in of_form(documents, "pairs"):
        first, _, rest = text.partition("The ")
        again = rest[rest.rindex(".\n\n") + 3 :] if ".\n\n" in rest else rest[rest.rindex("near another") :]
        pairs = re.findall(r"[A-Z][a-z]+ [A-Z][a-z]+[\": \t]+(?:has )?[\"]?([a-z0-9 ]+)", first)
        assert len(pairs) >= 90
        assert all(value in again for value in pairs)
        assert first.strip() not in again


def test_quotes_are_of_earlier_text(documents):
    for text in of_form(documents, "quotes"):
        quoted = re.findall(r"(?:before: “|repeat: |> )(The .*?\.)", text)
        assert len(quoted) >= 5
        for sentence in quoted:
            assert text.count(sentence) >= 2


def test_short_texts_are_refused():
    with pytest.raises(LtmError, match=r"1 of 2 texts hold 40 sentences"):
        exercises([TEXTS[0], "Short."], 4)


def test_exercises_join_a_corpus(documents):
    corpus = Corpus([[documents[0]], documents[1:3]], ["a", "b"])
    joined = corpus.joined("exercises", documents[3:])
    assert joined.kind_names == ["a", "b", "exercises"]
    assert [joined[n].text for n in range(len(joined))] == [document.text for document in documents]
    assert joined.of_kind(2) == list(range(3, 40))
    assert joined.fingerprint != corpus.fingerprint
