"""Names, cards and classes of a registry: what is listed, what is imported, and when."""

from __future__ import annotations

import subprocess
import sys
from importlib import invalidate_caches
from pathlib import Path

import pytest

import ltm
from ltm.errors import LtmError
from ltm.methods import METHODS
from ltm.registry import Card, Registry

ONE = """
from ltm.registry import Card
from registered import THINGS

import_is_seen = print("imported one")

@THINGS.register("one")
class One:
    card = Card("A paper", "a claim " "in two pieces", differs="nothing", needs_training=True)
"""
TWO = '''
from ltm.registry import Card
from registered import THINGS

CARD = Card("", "a baseline", "")

@THINGS.register("two")
class Two:
    """With a helper beside it, and its card apart."""
    card = CARD

class Helper:
    card = Card("", "none of it", "")
'''


@pytest.fixture
def things(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """A package with one entry in a file and one in a folder's folder, beside helpers that are none."""
    files = {
        "__init__.py": 'from ltm.registry import Registry\nTHINGS = Registry("thing", "registered", "ltm.things")\n',
        "one.py": ONE,
        "helper.py": "raise RuntimeError('nobody asked for this')",
        "family/__init__.py": "",
        "family/base.py": "raise RuntimeError('nobody asked for this')",
        "family/two/__init__.py": "",
        "family/two/model.py": TWO,
    }
    for name, text in files.items():
        file = tmp_path / "registered" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "registered"]:
        monkeypatch.delitem(sys.modules, name)
    from registered import THINGS

    return THINGS


def test_names_and_cards_are_read_without_an_import(things, capsys):
    assert list(things) == ["one", "two"] and len(things) == 2
    assert things.cards() == {
        "one": Card("A paper", "a claim in two pieces", "nothing", True),
        "two": Card("", "a baseline", ""),
    }
    assert not [name for name in sys.modules if name.startswith("registered.")] and capsys.readouterr().out == ""


def test_a_class_is_imported_when_it_is_asked_for(things, capsys):
    assert things["two"].__name__ == "Two" and things["two"].name == "two"
    assert "registered.family.two.model" in sys.modules and "registered.one" not in sys.modules
    assert things["one"].card == things.card("one")
    assert capsys.readouterr().out == "imported one\n"


def test_unknown_names_are_told_with_the_known_ones(things):
    with pytest.raises(LtmError, match="unknown thing 'onw'; did you mean one\\? known: one, two"):
        things["onw"]
    with pytest.raises(KeyError):
        things["onw"]
    assert things.get("onw") is None and "onw" not in things and "one" in things


def test_a_class_registered_in_a_running_process_is_listed(things):
    @things.register("mine")
    class Mine:
        card = Card("", "mine", "")

    assert things["mine"] is Mine and things.names() == ["mine", "one", "two"] and things.card("mine") is Mine.card
    with pytest.raises(RuntimeError, match="two things are called mine"):
        things.register("mine")(Mine)
    del things["mine"]
    assert "mine" not in things


def test_a_file_that_registers_nothing_under_its_name_is_a_mistake(things, tmp_path):
    (tmp_path / "registered" / "three.py").write_text('TEXT = """\n@register("three")\n"""\n')
    invalidate_caches()
    with pytest.raises(RuntimeError, match="registered.three registers no thing three"):
        things["three"]


def test_another_package_adds_its_own_by_an_entry_point(things, tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "__init__.py").write_text("raise RuntimeError('listing imports nothing')")
    (tmp_path / "outside" / "far.py").write_text(ONE.replace('"one"', '"far"'))
    facts = tmp_path / "outside-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: outside\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text("[ltm.things]\nfar = outside.far\nlost = nowhere.lost\n")
    assert things.names() == ["far", "one", "two"]
    assert things.card("far").paper == "A paper"
    (tmp_path / "outside" / "__init__.py").write_text("")
    assert things["far"].name == "far"


def test_every_method_is_registered_in_a_file_or_folder_of_its_name():
    for name, method in METHODS.items():
        assert name in method.__module__.split(".") or method.__module__ == "ltm.methods.stream_reader"
        assert method.card == Registry("method", "ltm.methods").card(name) and method.name == name


@pytest.mark.parametrize(
    "code",
    [
        "import ltm",
        "from ltm.methods import METHODS; METHODS.cards()",
        "from ltm.tasks.registry import TASKS; list(TASKS)",
        "from ltm.cli import main; main(['--help'])",
        "from ltm.cli import main; main(['methods'])",
        "from ltm.cli import main; main(['bench', 'run', '--help'])",
    ],
)
def test_names_help_and_cards_come_without_torch(code):
    heavy = "sorted({'torch', 'transformers', 'numpy', 'matplotlib'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; {code}; print({heavy}, len(sys.modules), file=sys.stderr)"],
        capture_output=True,
        text=True,
        check=True,
    )
    found, _, count = done.stderr.rpartition(" ")
    assert found == "[]" and int(count) < 700


def test_the_package_is_a_program():
    done = subprocess.run([sys.executable, "-m", "ltm", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"ltm {ltm.__version__}\n"
