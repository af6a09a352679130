"""Banks that were changed in any way are refused in one line, or answer as before: never a traceback, never a wait.

What was changed without its checksum may not answer otherwise; nothing outside the bank may be touched.

    python tests/fuzz/test_mutated_banks.py 10000        # as the nightly test does, with the seed of each fault
"""

from __future__ import annotations

import io
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parent.parent / "bank"))

from model_bank import tokens_of
from mutations import mutate
from time_limit import TookTooLong, time_limit

import ltm.cli
from ltm.backbone.fingerprint import Fingerprint
from ltm.bank import Bank, BankConfig, EventCut
from ltm.bank.disk.texts import kept_texts
from ltm.bank.method_entry import MethodEntry
from ltm.errors import LtmError

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs links, pipes and SIGALRM")
FINGERPRINT = Fingerprint("Llama", "ab" * 32, None, 4, 4, 2, 8, 32, 1000, "float32", "null")
SECONDS = 30
"""After which a bank counts as one that hangs; the slowest take 1."""


def sources(folder: Path) -> list[Path]:
    """Banks of each form: floats with evictions and two rows, codes with a centre, events."""
    floats = Bank(BankConfig(memory_size=40), num_rows=2, num_kv_heads=2, head_dim=8, fingerprint=FINGERPRINT)
    codes = Bank(
        BankConfig(2, None, None, "int4", "int8", "derived", index="exact"),
        num_rows=1,
        num_kv_heads=2,
        head_dim=8,
        layers=(1, 3),
        key_center=torch.ones(2, 2, 8),
    )
    events = Bank(BankConfig(1, None, event_heads=2), num_rows=1, num_kv_heads=2, head_dim=8)
    floats.method = MethodEntry("longmem", {"chunk_size": 4}, None)
    banks = {"floats": floats, "codes": codes, "events": events}
    for name, bank in banks.items():
        for step in range(4):
            document = bank.add_document(f"document {step}", text=f"The text of {step}, and what came then. ")
            keys, values, ids = tokens_of(12, seed=step)
            cut = None if bank is not events else [EventCut(torch.tensor([5, 7]), torch.ones(1, 2, 16))]
            stacked = [tensor[None].expand(len(bank.layers), -1, -1, -1, -1) for tensor in (keys, values)]
            bank.write(*stacked, ids, documents=[document], events=cut, rows=[step % bank.num_rows])
            bank.finish_document(document)
            if step != 2:
                bank.save(folder / name)
    return [folder / name for name in banks]


def answers(bank: Bank) -> str:
    """What a bank says when it is asked."""
    told: list[object] = [bank.documents, [bank.document_text(info.id) for info in bank.documents]]
    queries = torch.randn(1, 2, 3, bank.head_dim, generator=torch.Generator().manual_seed(1))
    for row in range(min(bank.num_rows, 4)):
        if bank.config.event_heads is None:
            found = bank.retrieve(queries, 3, rows=[row])
            told += [found.hits.slots.tolist(), found.keys.double().sum().item(), found.values.double().sum().item()]
        else:
            told += [bank.event_table(row), bank.score_events(row, queries[0].transpose(0, 1)).tolist()]
        told.append(bank.sources(bank.rows[row].slots(), row))
    return repr(told)


def exported(path: Path) -> str:
    return "".join(kept.to_json() for kept in kept_texts(Bank.load(path)))


def delete(path: Path) -> None:
    bank = Bank.load(path)
    for info in bank.documents[:1]:
        bank.delete_document(info.id)
    bank.save(path)
    Bank.load(path, verify=True)


def append(path: Path) -> None:
    bank = Bank.load(path)
    document = bank.add_document("new", text="new")
    if bank.config.event_heads is None and len(bank.layers) == 1 and (bank.num_kv_heads, bank.head_dim) == (2, 8):
        bank.write(*tokens_of(4), rows=[0], documents=[document])
    bank.save(path)
    Bank.load(path, verify=True)


def merge(path: Path) -> None:
    bank = Bank.load(path)
    bank.empty_like().merge(bank)


OPERATIONS: list[Callable[[Path], object]] = [
    lambda path: answers(Bank.load(path)),
    Bank.verify,
    lambda path: [info.name for info in Bank.read_manifest(path).document_infos],
    lambda path: Bank.find_text(path, "The text of 1"),
    exported,
    merge,
    append,
    delete,
]


COMMANDS = [("list",), ("list", "--json"), ("info",), ("info", "--json"), ("verify",), ("export",), ("compact",)]
COMMANDS += [("verify", "--absent", "The text of 1", "--no-model"), ("delete", "document 1"), ("delete", "2")]


def command(path: Path, arguments: tuple[str, ...]) -> None:
    """`ltm bank` with these, which has errors of its own."""
    name, *others = arguments
    said, errors = io.StringIO(), io.StringIO()
    with redirect_stdout(said), redirect_stderr(errors):
        code = ltm.cli.main(["bank", name, str(path), *others])
    if code not in (0, 1, 2) or (code == 2 and len(errors.getvalue().splitlines()) != 1):
        raise RuntimeError(f"{arguments}: code {code}, {errors.getvalue()!r}")


def try_one(seed: int, folders: list[Path], expected: dict[Path, str], scratch: Path, outcomes: Counter) -> list[str]:
    """A bank with one change; what is wrong with how it is taken. outcomes: how many were opened, and refused why."""
    chance = random.Random(seed)
    source = chance.choice(folders)
    path, outside = scratch / "a.bank", scratch / "outside"
    shutil.rmtree(scratch, ignore_errors=True)
    shutil.copytree(source, path)
    outside.mkdir()
    (outside / "mine").write_text("mine")
    signed = mutate(path, outside, chance)
    kept = {file: file.read_bytes() for file in outside.iterdir() if file.is_file()}
    wrong = []
    arguments = chance.choice(COMMANDS)
    for number, operation in enumerate([*OPERATIONS, lambda path: command(path, arguments)]):
        try:
            with time_limit(SECONDS):
                told = operation(path)
            if number == 0:
                outcomes["opened, changed" if told != expected[source] else "opened, the same"] += 1
                if not signed and told != expected[source]:
                    wrong.append("0: answers otherwise")
        except LtmError as error:
            if number == 0:
                outcomes[" ".join(str(error).partition(": ")[2].split()[:3])] += 1
            if "\n" in str(error) or not 0 < len(str(error)) < 1000:
                wrong.append(f"{number}: more than a line: {str(error)[:200]}")
        except TookTooLong:
            wrong.append(f"{number}: hangs")
        except Exception as error:
            wrong.append(f"{number}: {type(error).__name__}: {str(error)[:200]}")
        if any(not file.is_file() or file.read_bytes() != content for file, content in kept.items()):
            wrong.append(f"{number}: touched a file outside")
            break
    return wrong


def run(count: int, folder: Path, first: int = 0) -> tuple[dict[int, list[str]], Counter]:
    """The seeds of which something is wrong, and what; and the outcomes of all."""
    made = sources(folder / "sources")
    expected = {path: answers(Bank.load(path)) for path in made}
    outcomes: Counter = Counter()
    seeds = range(first, first + count)
    tried = {seed: try_one(seed, made, expected, folder / "scratch", outcomes) for seed in seeds}
    return {seed: wrong for seed, wrong in tried.items() if wrong}, outcomes


@pytest.fixture(autouse=True)
def do_not_wait_for_the_disk(monkeypatch):
    monkeypatch.setattr("ltm.bank.disk.files.os.fsync", lambda handle: None)


def test_mutated_banks(tmp_path):
    wrong, outcomes = run(200, tmp_path)
    assert wrong == {}
    opened = outcomes["opened, changed"] + outcomes["opened, the same"]
    assert 20 < opened < 180 and len(outcomes) > 20  # some changes do no harm; most are refused, for many reasons


@pytest.mark.slow
def test_10_000_mutated_banks(tmp_path):
    assert run(10_000, tmp_path, first=200)[0] == {}


def main() -> None:
    ltm.bank.disk.files.os.fsync = lambda handle: None
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        wrong, outcomes = run(int(sys.argv[1]), Path(folder), int(sys.argv[2]) if len(sys.argv) > 2 else 0)
    for seed, what in wrong.items():
        print(seed, ascii("; ".join(what)))
    kinds = Counter(line.partition(": ")[2][:60] for lines in wrong.values() for line in lines)
    for outcome, times in outcomes.most_common():
        print(f"{times:6} {ascii(outcome)}")
    print(f"{len(wrong)} of {sys.argv[1]}", ascii(dict(kinds.most_common(20))))


if __name__ == "__main__":
    main()
