"""Options that would do nothing, and values that cannot be: refused in one line, before anything is done."""

from __future__ import annotations

import json

import pytest
from conftest import one_line

TINY = ("--backbone", "tiny-llama")
E = (*TINY, "--method", "em_llm")
HUGE = 10**21


@pytest.fixture
def small(run, book, tmp_path):
    """A memory of a method without training."""
    assert run("read", book, "-o", tmp_path / "em.bank", *E).code == 0
    return tmp_path / "em.bank"


def test_a_sidenet_is_for_trained_methods(run, book, sidenet, small, tmp_path):
    for command in (
        ("read", book, "-o", tmp_path / "new", *E),
        ("ask", small, "Who?", *E),
        ("chat", small, *E),
        ("bank", "verify", small, "--absent", "a text of some words", *E),
        ("bank", "rebuild", small, "-o", tmp_path / "new", *E),
    ):
        assert "takes no weights" in one_line(run(*command, "--sidenet", sidenet))
    line = one_line(run("eval", "perplexity", "--data", book, *TINY, "--method", "window,full", "--sidenet", sidenet))
    assert "--sidenet has no effect" in line
    assert not (tmp_path / "new").exists()


def test_settings_of_a_memory_that_is_there(run, book, small, tmp_path):
    assert "--memory-size 65536, not 64" in one_line(run("read", book, "-o", small, *E, "--memory-size", 64))
    assert run("read", book, "-o", small, *E, "--memory-size", 65536).code == 0  # the same command again
    texts = tmp_path / "texts.jsonl"
    assert run("bank", "export", small, "-o", texts).code == 0
    for again in (("import", texts), ("rebuild", tmp_path / "em2.bank")):
        if again[0] == "rebuild":
            assert run("read", book, "-o", again[1], *E).code == 0
        line = one_line(run("bank", *again, "-o", small, *E, "--memory-size", 64))
        assert "--memory-size" in line and "leave" in line
    assert "no option memory_size" in one_line(
        run("read", book, "-o", tmp_path / "q", *TINY, "--method", "quest", "--memory-size", 64)
    )


def test_verify_takes_no_options_of_the_proof_alone(run, small):
    for options in (("--no-model",), ("--device", "cpu"), ("--method", "em_llm"), ("--backbone", "tiny-llama")):
        line = one_line(run("bank", "verify", small, *options))
        assert options[0] in line and "no effect without --absent" in line
    line = one_line(
        run("bank", "verify", small, "--absent", "words that nobody wrote", "--no-model", "--device", "cpu")
    )
    assert "--device: no effect with --no-model" in line
    assert run("bank", "verify", small, "--absent", "words that nobody wrote", "--no-model").code == 0


@pytest.mark.parametrize(
    "options", [("--recall", "both"), ("--passages", 3), ("--instruction", "Be short."), ("--min-confidence", 0.5)]
)
def test_a_text_that_is_gone_on_with_takes_no_options_of_a_question(run, small, options):
    asked = ("ask", small, "Call me", *options)
    assert f"{options[0]}: no effect with --continue" in one_line(run(*asked, "--continue"))
    assert run(*asked, "--max-tokens", 2).code == 0


def test_options_of_weights_that_training_goes_on_from(run, book, sidenet, tmp_path):
    common = ("train", "--data", book, "--out", tmp_path / "out", *TINY, "--max-steps", 1, "--start-from", sidenet)
    assert "--chunk-size: no effect with --start-from" in one_line(run(*common, "--chunk-size", 8))
    assert "weights of longmem, not of memorizing" in one_line(run(*common, "--method", "memorizing"))
    assert "a name is for one text that is piped in" in one_line(
        run("read", book, "-o", tmp_path / "out", *E, "--name", "tale")
    )
    assert not (tmp_path / "out").exists()


def test_settings_that_none_of_the_methods_has(run, book, tmp_path):
    scored = ("eval", "perplexity", "--data", book, *TINY, "--method", "full", "--max-tokens", 8)
    assert "none of full has a window" in one_line(run(*scored, "--window", 32))
    assert run(*scored).code == 0
    bench = ("bench", "run", "--data", tmp_path, "--out", tmp_path / "out", *TINY, "--methods", "window,full")
    assert "none of the methods has a memory" in one_line(run(*bench, "--budget", 64))
    assert "none of the tasks has a seed" in one_line(run(*bench, "--seed", 1))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--seed", HUGE), "seed="),
        (("--seed", -1), "seed=-1"),
        (("--temperature", "1e-320"), "temperature="),
        (("--temperature", "nan"), "temperature=nan"),
        (("--temperature", "inf"), "temperature=inf"),
        (("--repetition-penalty", "nan"), "repetition_penalty=nan"),
        (("--repetition-penalty", "1e-300"), "repetition_penalty="),
        (("--max-tokens", HUGE), "max_new_tokens="),
        (("--device", "mps"), "mps"),
        (("--device", "meta"), "meta"),
        (("--device", "toaster"), "toaster"),
        (("--method", ""), "empty"),
    ],
)
def test_values_of_an_answer(run, small, options, says):
    asked = ("ask", small, "Who?") if options[0] == "--method" else ("ask", small, "Who?", "--method", "em_llm")
    assert says in one_line(run(*asked, *options))


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (("eval", "perplexity", "--data", "BOOK", *TINY, "--method", "window", "--window", HUGE), "window="),
        (("eval", "perplexity", "--data", "BOOK", *TINY, "--method", "window", "--stride", HUGE), "stride="),
        (("bench", "run", *TINY, "--out", "OUT", "--methods", f"window:local_window={HUGE}"), "local_window="),
        (("bench", "run", *TINY, "--out", "OUT", "--methods", "longmem:pointer_trust=nan"), "pointer_trust=nan"),
        (("bench", "run", *TINY, "--out", "OUT", "--set", f"long_text.documents={HUGE}"), "documents="),
        (("bench", "run", *TINY, "--out", "OUT", "--window", HUGE), "window="),
        (("bench", "run", *TINY, "--out", "OUT", "--tasks", "recall", "--seed", HUGE), "seed="),
        (("bench", "report", "OUT", "--out", ""), "empty"),
        (("bench", "report", "OUT", "--out="), "empty"),
        (
            ("train", "--data", "BOOK", "--out", "OUT", *TINY, "--max-steps", 1, "--pointer-trust", "nan"),
            "pointer_trust",
        ),
        (
            ("train", "--data", "BOOK", "--out", "OUT", *TINY, "--max-steps", 1, "--learning-rate", "inf"),
            "learning_rate",
        ),
        (("train", "--data", "BOOK", "--out", "OUT", *TINY, "--max-steps", 1, "--seed", HUGE), "seed="),
        (("read", "BOOK", "-o", "LOOP", *E), "loop"),
        (("read", "LOOP", "-o", "OUT", *E), "loop"),
        (("ask", "LOOP", "Who?", *E), "loop"),
        (("bank", "list", "LOOP"), "loop"),
        (("read", "", "-o", "OUT", *E), "empty"),
    ],
)
def test_values_of_other_commands(run, book, tmp_path, command, says):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    places = {"BOOK": book, "OUT": tmp_path / "out", "LOOP": tmp_path / "loop"}
    assert says in one_line(run(*(places.get(word, word) for word in command)))
    assert [file.name for file in tmp_path.iterdir()] == ["loop"]


def test_bytes_that_are_no_text(run, small):
    for command in (("ask", small, "caf\udce9?", *E), ("bank", "verify", small, "--absent", "caf\udce9 and more")):
        assert "a byte that is not UTF-8" in one_line(run(*command))


@pytest.mark.parametrize("ranges", [[[0.5, 8.2]], [[0, True]], [["0", "8"]], [[0]], [[0, 10**21]], 7, [None]])
def test_ranges_of_an_import(run, tmp_path, ranges):
    (tmp_path / "texts.jsonl").write_text(json.dumps({"id": "note", "text": "One more thing.", "ranges": ranges}))
    assert "texts.jsonl:1" in one_line(run("bank", "import", tmp_path / "texts.jsonl", "-o", tmp_path / "new", *E))
    (tmp_path / "texts.jsonl").write_bytes(b'{"id": "caf\xe9"')
    assert "not UTF-8" in one_line(run("bank", "import", tmp_path / "texts.jsonl", "-o", tmp_path / "new", *E))


def test_a_nul_character_is_in_no_argument():
    """From Python alone; typer and click tell it in other words from release to release, or not at all."""
    from ltm.cli import main

    assert main(["bank", "list", "a\0b"]) == 2
