"""ltm train in stages, with a learner, and of the backbone's own weights."""

from __future__ import annotations

import json

import pytest
import torch
from conftest import one_line
from safetensors.torch import load_file

from ltm.training import read_log

TINY = ("--backbone", "tiny-llama", "--reduction-factor", 2, "--segment-size", 32, "--max-steps", 2)
EWC = ("--learner", "ewc", "--strength", 5000, "--fisher-batches", 2)


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "other.txt"
    path.write_text("The square of the hypotenuse is the sum of the squares of both other sides.\n" * 6)
    return path


def weights(out) -> dict[str, torch.Tensor]:
    return load_file(out / "ltm_method.safetensors")


def test_stages_of_one_command_or_of_one_after_another(run, book, other, tmp_path):
    """What the learner keeps goes along with the weights: both ways are the same, bit for bit."""
    torch.manual_seed(0)
    staged = run("train", *TINY, *EWC, "--stages", "--data", book, "--data", other, "--out", tmp_path / "staged")
    assert staged.code == 0, staged.err
    assert [record["event"] for record in read_log(tmp_path / "staged" / "log.jsonl")].count("stage") == 1
    record = json.loads((tmp_path / "staged" / "train_config.json").read_text())
    assert record["learner"] == {"name": "ewc", "config": {"strength": 5000.0, "fisher_batches": 2, "labels": "drawn"}}
    assert record["data"]["documents_of_kind"] == {"moby.txt": 1}
    assert [stage["documents_of_kind"] for stage in record["later_stages"]] == [{"other.txt": 1}]
    torch.manual_seed(0)
    first = run("train", *TINY, *EWC, "--data", book, "--out", tmp_path / "first")
    assert first.code == 0, first.err
    assert (tmp_path / "first" / "ltm_learner.safetensors").exists()
    backbone_and_steps = (*TINY[:2], *TINY[6:])
    common = (*backbone_and_steps, "--data", other, "--segment-size", 32, "--start-from", tmp_path / "first")
    second = run("train", *common, *EWC, "--out", tmp_path / "second")
    assert second.code == 0, second.err
    plain = run("train", *common, "--out", tmp_path / "plain")
    assert plain.code == 0 and "--learner ewc goes on with it" in " ".join(plain.err.split())
    one, two = weights(tmp_path / "staged"), weights(tmp_path / "second")
    assert all(torch.equal(tensor, two[name]) for name, tensor in one.items())
    assert any(not torch.equal(tensor, weights(tmp_path / "plain")[name]) for name, tensor in one.items())
    states = [load_file(tmp_path / out / "ltm_learner.safetensors") for out in ("staged", "second")]
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items()) and states[0]


def test_the_backbone_is_trained_and_the_next_command_names_it(run, book, tmp_path):
    out = tmp_path / "window"
    trained = run(
        "train", "--backbone", "tiny-llama", "--method", "window", "--train-backbone", "layers.5", "--data", book,
        "--out", out, "--segment-size", 32, "--max-steps", 2,
    )  # fmt: skip
    assert trained.code == 0, trained.err
    assert f"--backbone {out / 'backbone'}" in " ".join(trained.err.split())
    scored = run("eval", "perplexity", "--backbone", out / "backbone", "--method", "window", "--data", book, "--json")
    assert scored.code == 0, scored.err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--learner", "ewk"), "ewc"),
        (("--learner", "ewc", "--strength", -1), "strength=-1.0; use 0 or more"),
        (("--train-backbone", "zork"), "train_backbone='zork' is in no name"),
    ],
)
def test_what_cannot_be_is_told_in_a_line(run, book, tmp_path, options, says):
    assert says in one_line(run("train", *TINY, "--data", book, "--out", tmp_path / "out", *options))


def test_a_learners_options_are_known_only_with_it(run, book, tmp_path):
    assert run("train", *TINY, "--data", book, "--out", tmp_path / "out", "--strength", 2).code == 2
    assert "--fisher-batches" in run("train", "--learner", "ewc", "--help").out
