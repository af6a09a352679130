"""What a run shows: the log, the plot, the progress line, validation figures."""

from __future__ import annotations

import io
import json
import math
import sys

import pytest
import torch
from conftest import make_documents
from fake_method import ByteTokenizer, FakeMethod, Means
from rich.console import Console

from ltm.console import RunDisplay
from ltm.errors import LtmError
from ltm.plots import smooth
from ltm.training import Corpus, Validation, plot_loss, read_log
from ltm.training.log import TrainLog


def write_run(folder, evaluations=True):
    log = TrainLog(folder)
    for step in range(1, 101):
        loss = 3 + math.exp(-step / 30) + 0.1 * math.sin(step)
        log.write("train", step=step, tokens=step * 256, loss=loss, lr=1e-4, grad_norm=1.0, seconds=step / 2)
        if evaluations and step % 20 == 0:
            figures = {"perplexity": math.exp(3 + math.exp(-step / 30)), "perplexity_memory_off": 25.0}
            log.write("eval", step=step, tokens=step * 256, **figures)
    return log.path


def test_log_rounds_and_keeps_json_strict(tmp_path):
    log = TrainLog(tmp_path)
    log.write("train", step=1, loss=1 / 3, grad_norm=math.inf, note="x")
    line = log.path.read_text()
    assert json.loads(line) == {"event": "train", "step": 1, "loss": 0.333333, "grad_norm": None, "note": "x"}


def test_resumed_log_drops_later_steps_and_torn_lines(tmp_path):
    log = TrainLog(tmp_path)
    for step in range(1, 6):
        log.write("train", step=step, loss=1.0)
    with open(log.path, "a") as file:
        file.write('{"event": "tr')
    assert len(read_log(log.path)) == 5
    TrainLog(tmp_path, after_step=3)
    assert [record["step"] for record in read_log(log.path)] == [1, 2, 3]
    TrainLog(tmp_path)
    assert read_log(log.path) == []


def test_broken_log_is_refused(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"step": 1}\nbroken\n{"step": 2}\n')
    with pytest.raises(LtmError, match="log.jsonl:2 is not JSON"):
        read_log(tmp_path / "log.jsonl")
    with pytest.raises(LtmError, match="does not exist"):
        read_log(tmp_path / "none.jsonl")


def test_smoothing_by_hand():
    assert smooth([4.0, 2.0, 0.0], [1, 1, 3], width=2) == [4.0, 3.0, 0.5]


def test_plot_says_what_it_shows(tmp_path):
    svg = plot_loss(write_run(tmp_path), tmp_path / "loss.svg").read_text()
    for words in (
        "training tokens (thousands)",
        "training loss (nats per token)",
        "validation perplexity",
        "memory off",
    ):
        assert f"<!-- {words} -->" in svg
    assert "Loss 4.0" in svg and "Validation perplexity" in svg


def test_plot_without_evaluations_or_with_one_step(tmp_path):
    assert "validation" not in plot_loss(write_run(tmp_path, False), tmp_path / "loss.svg").read_text()
    log = TrainLog(tmp_path)
    with pytest.raises(LtmError, match="no training steps to draw"):
        plot_loss(log.path, tmp_path / "loss.png")
    log.write("train", step=1, tokens=10, loss=1.0)
    assert plot_loss(log.path, tmp_path / "loss.png").stat().st_size > 1000


def test_missing_matplotlib_is_one_line(tmp_path, monkeypatch):
    path = write_run(tmp_path)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(LtmError, match=r"pip install \"ltm\[plot\]\""):
        plot_loss(path, tmp_path / "loss.png")


def test_trainer_draws_its_plot(bench):
    trainer = bench.trainer(max_steps=2)
    trainer.plot = True
    trainer.train()
    assert (bench.folder / "out" / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_progress_in_a_file_is_few_plain_lines():
    out = io.StringIO()
    with RunDisplay(console=Console(file=out, width=40)) as display:
        for step in range(1, 101):
            facts = {"step": step, "loss": 2.34567, "perplexity": None, "tokens/s": 1234.5}
            display.update(step / 100, seconds=step * 0.6, facts=facts)
        display.message("done")
    lines = out.getvalue().splitlines()
    assert lines[0] == "  1% · step 1 · loss 2.35 · tokens/s 1,234 · 0:59 left"
    assert lines[1:] == ["100% · step 100 · loss 2.35 · tokens/s 1,234 · 0:00 left", "done"]


def test_progress_in_a_terminal_is_a_bar_that_shows_figures():
    out = io.StringIO()
    with RunDisplay(console=Console(file=out, force_terminal=True, width=120)) as display:
        display.update(0.5, seconds=3600.0, facts={"loss": 2.0})
    assert "loss 2 · 1:00:00 left" in out.getvalue() and "50%" in out.getvalue()


def test_disabled_progress_is_silent(capsys):
    with RunDisplay(enabled=False) as display:
        display.update(0.5, seconds=1.0, facts={"loss": 2.0})
        display.message("hidden")
    assert capsys.readouterr().err == ""


def test_validation_by_hand():
    kinds = [make_documents([20, 9], "a"), make_documents([12], "b")]
    method = FakeMethod(dropout=0.0).eval()
    with torch.no_grad():
        method.remembered.weight.mul_(20)
    validation = Validation(Corpus(kinds, ["a", "b"]), ByteTokenizer(), segment_size=8, segments_per_document=2)
    with torch.no_grad():
        figures = validation(method)
        sums = {name: [0.0, 0] for name in ("a", "b", "a off", "b off")}
        for name, documents in zip("ab", kinds, strict=True):
            for document in documents:
                ids = torch.tensor([ByteTokenizer()(document.text, add_special_tokens=False)["input_ids"]])[:, :16]
                for suffix in ("", " off"):
                    memory = None if suffix else Means()
                    for piece in ids.split(8, dim=1):
                        if piece.shape[1] < 2:
                            continue
                        output = method(piece, torch.ones_like(piece), piece, memory, remember=True)
                        sums[name + suffix][0] += float(output.loss) * (piece.shape[1] - 1)
                        sums[name + suffix][1] += piece.shape[1] - 1
    total = [sum(sums[k][n] for k in ("a", "b")) for n in (0, 1)]
    assert sums["a"][1] == 7 + 7 + 7 and sums["b"][1] == 7 + 3
    assert figures["perplexity"] == pytest.approx(math.exp(total[0] / total[1]), rel=1e-5)
    for kind in "ab":
        assert figures[f"perplexity/{kind}"] == pytest.approx(math.exp(sums[kind][0] / sums[kind][1]), rel=1e-5)
        off = figures[f"perplexity_memory_off/{kind}"]
        assert off == pytest.approx(math.exp(sums[f"{kind} off"][0] / sums[f"{kind} off"][1]), rel=1e-5)
        assert abs(off - figures[f"perplexity/{kind}"]) > 1e-3
