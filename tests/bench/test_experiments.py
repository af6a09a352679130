"""Experiments by name: read, refused in one line, run; and every kept result is what an experiment asks for."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from ltm.bench import Experiment, Plan, read_experiment
from ltm.bench.experiments import EXPERIMENTS
from ltm.errors import LtmError

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / EXPERIMENTS).glob("*.toml"))


@pytest.fixture
def file(tmp_path):
    """file("stride = 8") -> its path."""

    def write(text):
        path = tmp_path / "own.toml"
        path.write_text(text)
        return str(path)

    return write


def planned(path):
    """The cells of an experiment by their result files."""
    experiment = read_experiment(str(path))
    tasks, methods = experiment.task_specs(), experiment.method_specs()
    plan = Plan(tasks, methods, None, None, experiment.window, experiment.stride, seeds=experiment.seeds or (0,))
    return {ROOT / cell.result_path(Path(experiment.out)): cell for cell in plan.cells()}


def test_every_result_that_is_kept_is_what_an_experiment_asks_for():
    cells = {path: cell for file in FILES for path, cell in planned(file).items()}
    kept = sorted((ROOT / "benchmarks" / "results").glob("*/*.json"))
    assert len(kept) > 100 and set(kept) <= set(cells)
    for path in kept:
        setup = json.loads(path.read_text())["setup"]
        assert setup["method"]["given"] == cells[path].options, path
        assert setup["task"]["config"] == asdict(cells[path].task_config), path


def test_no_two_experiments_write_one_file():
    found = [path for file in FILES for path in planned(file)]
    assert len(set(found)) == len(found)


def test_every_experiment_says_what_it_is():
    assert all(read_experiment(str(file)).about and read_experiment(str(file)).data == "data" for file in FILES)


def test_a_name_is_looked_up_in_the_repository(monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    assert read_experiment("long_text") == read_experiment("benchmarks/experiments/long_text.toml")
    with pytest.raises(LtmError, match="did you mean long_text\\? there are: .*wikitext"):
        read_experiment("longtext")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LtmError, match="in a checkout of the repository alone: .*path/to/experiment.toml"):
        read_experiment("long_text")
    with pytest.raises(LtmError, match="there is no nowhere.toml here"):
        read_experiment("nowhere.toml")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("stride", "is no TOML"),
        ("strid = 8", "did you mean stride"),
        ("stride = true", "stride=True; use a whole number"),
        ("methods = 'window'", "use a list of texts"),
        ("methods = []", "use a list of texts"),
        ("[set]\nlong_text = 1", r"a table for each task: \[set.long_text\]"),
        ("seeds = ['a']", "a list of whole numbers"),
    ],
)
def test_what_cannot_be_read_is_told(file, text, says):
    with pytest.raises(LtmError, match=says):
        read_experiment(file(text))


def test_options_given_besides_win(file):
    text = 'stride = 8\nmethods = ["window", "longmem:chunk_size=2,retrieved_tokens=32 as two"]\n'
    own = read_experiment(file(text + '[set.long_text]\nkinds = ["a", "b"]\ndocuments = 2'))
    assert [spec.label for spec in own.method_specs()] == ["window", "two"]
    assert own.task_specs()[0].options == {"kinds": "a,b", "documents": 2}
    assert own.task_specs(["long_text.documents=3"])[0].options["documents"] == 3
    changed = own.given(methods=["full"], stride=None, seeds=[])
    assert (changed.methods, changed.stride, changed.window) == (["full"], 8, Experiment().window)
