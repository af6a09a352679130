"""What every method that remembers text promises: nothing is lost, mixed up, made up or left behind."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from diary import Diary
from scripted_writer import ScriptedWriter

from ltm.errors import BankMismatchError, LtmError
from ltm.methods import METHODS as REGISTERED
from ltm.methods.text.base import TextMemory
from ltm.notes.encoder import HashEncoder
from ltm.notes.store import NoteStore
from ltm.text.means import Means

METHODS = [*(REGISTERED[name] for name in REGISTERED.of(TextMemory)), Diary]
ANSWER = '{"topic": "things"}'
SAID = {
    "letter": "The brass key lies under the doormat of the old mill.",
    "talk": "Wendy paints zeppelins on Thursdays.",
    "log": "The generator needs forty litres of diesel.",
    "poem": "A quince fell on the xylophone and nobody wept.",
}
QUESTION = "Where is the brass key?"


@pytest.fixture(params=METHODS, ids=lambda method: method.name)
def chosen(request):
    return request.param


def make(chosen, answer=ANSWER):
    """A method with a writer of a test's and an encoder that needs nothing."""
    return chosen.open(chosen.config_class.tiny(), Means(writer=ScriptedWriter(answer), encoder=HashEncoder()))


def tell(method, memory, row=0, said=SAID):
    for day, (source, text) in enumerate(said.items(), start=1):
        method.remember(text, source, time=f"2026-01-0{day}", memory=memory, row=row)


def ask(method, question=QUESTION, **where):
    return method.reply([{"role": "user", "content": question}], **where)


def bytes_of(path):
    return b"".join(file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file())


def test_what_is_remembered_is_recalled(chosen):
    method, memory = make(chosen), make(chosen).new_memory()
    tell(method, memory)
    for source, text in SAID.items():
        found = method.recall(text, memory=memory)
        assert text in found[0].note.text
        best = method.passages(found[:1], memory=memory)[0]
        assert (best.document, best.text) == (source, text)
    reply = ask(method, memory=memory)
    assert reply.text == ANSWER and SAID["letter"] in method.means.writer.seen
    assert reply.found and QUESTION in method.means.writer.seen


def test_the_log_is_verbatim_and_every_note_cites_it(chosen):
    method, memory = make(chosen), make(chosen).new_memory()
    tell(method, memory)
    assert {event.source: event.text for event in memory[0].events()} == SAID
    events = {event.id for event in memory[0].events()}
    assert memory[0].notes() and all(note.cites and note.events <= events for note in memory[0].notes())


def test_a_forgotten_source_is_in_no_note_file_or_prompt(chosen, tmp_path):
    method = make(chosen)
    memory = method.open_memory(tmp_path)
    tell(method, memory)
    ask(method, SAID["poem"], memory=memory)
    assert b"quince" in bytes_of(tmp_path)
    method.forget("poem", memory=memory)
    assert all("quince" not in str(note) for note in memory[0].notes())
    assert [word for word in (b"quince", b"quinc", b"xylophon", b"wept", b"poem") if word in bytes_of(tmp_path)] == []
    method.means.writer.prompts.clear()
    ask(method, "What fell on the instrument?", memory=memory)
    assert "quince" not in method.means.writer.seen
    for source in ("letter", "talk", "log"):  # what else was said is all there
        assert SAID[source] in method.recall(SAID[source], memory=memory)[0].note.text
    with pytest.raises(LtmError, match="no source 'poem'"):
        method.forget("poem", memory=memory)


def test_forgetting_leaves_what_never_having_heard_it_would(chosen):
    """Up to what a method says of itself: texts that are recalled, and the log."""
    method = make(chosen)
    heard, never = method.new_memory(), method.new_memory()
    tell(method, heard)
    method.forget("talk", memory=heard)
    tell(method, never, said={source: text for source, text in SAID.items() if source != "talk"})
    texts = [sorted(note.text for note in memory[0].notes()) for memory in (heard, never)]
    assert texts[0] == texts[1]
    assert [event.text for event in heard[0].events()] == [event.text for event in never[0].events()]


def test_replaying_the_log_rebuilds_the_store(chosen):
    method = make(chosen)
    memory = method.new_memory()
    tell(method, memory)
    before, found = memory[0].dump(), method.recall(QUESTION, memory=memory)
    memory[0].delete([memory[0].notes()[0].id])
    assert memory[0].dump() != before
    method.rebuild(memory=memory)
    assert memory[0].dump() == before and method.recall(QUESTION, memory=memory) == found


def test_the_same_script_gives_the_same_notes(chosen):
    first, second = make(chosen), make(chosen)
    memories = [first.new_memory(), second.new_memory()]
    for method, memory in zip((first, second), memories, strict=True):
        tell(method, memory)
    assert memories[0][0].dump() == memories[1][0].dump()
    assert first.means.writer.prompts == second.means.writer.prompts
    assert first.recall(QUESTION, memory=memories[0]) == second.recall(QUESTION, memory=memories[1])


def test_recalled_text_is_never_taken_in_again(chosen):
    method = make(chosen)
    memory = method.new_memory()
    tell(method, memory)
    reply = ask(method, memory=memory)
    recalled = [message for message in reply.prompt if message.get("recalled")]
    assert recalled and SAID["letter"] in recalled[0]["content"]
    before = memory[0].dump()
    assert [method.remember(message, "chat", memory=memory) for message in recalled] == [None] * len(recalled)
    assert memory[0].dump() == before
    assert reply.prompt[-1] == {"role": "user", "content": QUESTION}  # what a caller keeps of it is the question


def test_answering_changes_nothing(chosen):
    method = make(chosen)
    memory = method.new_memory()
    tell(method, memory)
    before = memory[0].dump()
    ask(method, memory=memory)
    method.recall(QUESTION, memory=memory)
    assert memory[0].dump() == before


@pytest.mark.parametrize("answer", [None, "", "no idea", "{", '{"topic": 3}', "[1, 2]"])
def test_a_writer_that_answers_nonsense_is_one_line_and_costs_nothing(chosen, answer):
    method = make(chosen)
    memory = method.new_memory()
    tell(method, memory)
    method.means.writer.answer = answer
    before = memory[0].dump()
    for action in (
        lambda: method.remember("Something new.", "new", memory=memory),
        lambda: method.rebuild(memory=memory),
        lambda: ask(method, memory=memory),
    ):
        try:
            action()
        except LtmError as error:
            assert "\n" not in str(error) and "script" in str(error)
            assert memory[0].dump() == before
        else:
            assert [event for event in memory[0].events() if event.source in SAID]
            method.forget("new", memory=memory) if "new" in memory[0].sources else None


def test_rows_never_see_each_other(chosen):
    method = make(chosen)
    memory, alone = method.new_memory(2), method.new_memory()
    tell(method, memory, row=1)
    assert method.recall(QUESTION, memory=memory, row=0) == [] and not memory[0].events()
    own = {"mine": "My brass key is in the car."}
    for store in (memory, alone):
        tell(method, store, said=own)
    assert method.recall(QUESTION, memory=memory) == method.recall(QUESTION, memory=alone)
    method.means.writer.prompts.clear()
    ask(method, memory=memory)
    assert "doormat" not in method.means.writer.seen and "car" in method.means.writer.seen
    method.forget("letter", memory=memory, row=1)
    assert memory[0].dump() == alone[0].dump()
    swapped = memory.select([1, 0])
    assert swapped[0].dump() == memory[1].dump() and method.recall(QUESTION, memory=swapped, row=1)
    with pytest.raises(LtmError, match="rows 0 to 1"):
        method.recall(QUESTION, memory=memory, row=2)


def test_one_method_serves_two_memories_in_two_threads(chosen):
    method = make(chosen)
    stories = [{f"{name}-{n}": f"{name} keeps number {n} in a jar." for n in range(6)} for name in ("Ann", "Bob")]
    memories = [method.new_memory(), method.new_memory()]
    found, failed = [None, None], []

    def work(place):
        try:
            tell(method, memories[place], said=stories[place])
            for _ in range(10):
                found[place] = ask(method, "Who keeps number 3?", memory=memories[place]).found
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(place,)) for place in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    for place, story in enumerate(stories):
        alone = make(chosen)
        memory = alone.new_memory()
        tell(alone, memory, said=story)
        assert memories[place][0].dump() == memory[0].dump()
        assert found[place] == alone.recall("Who keeps number 3?", memory=memory) != []


def test_two_threads_of_one_memory(chosen):
    method = make(chosen)
    memory, failed = method.new_memory(), []

    def work(name):
        try:
            for number in range(5):
                method.remember(f"{name} has {number} jars.", name, memory=memory)
                assert method.recall(f"{name} has {number} jars.", memory=memory)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(name,)) for name in ("Ann", "Bob")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed and sorted(memory[0].sources) == ["Ann", "Bob"] and len(memory[0].events()) == 10


RECALLS = """
import sys
from importlib import import_module

sys.path.insert(0, sys.argv[1])
from ltm.notes.encoder import HashEncoder
from ltm.notes.store import NoteStore
from ltm.text.means import Means

chosen = getattr(import_module(sys.argv[2]), sys.argv[3])
method = chosen.open(chosen.config_class.tiny(), Means(encoder=HashEncoder()))
print([found.note.text for found in method.recall(sys.argv[5], memory=NoteStore.load(sys.argv[4]))])
"""


def test_saved_and_loaded_in_another_process(chosen, tmp_path):
    method = make(chosen)
    memory = method.new_memory()
    tell(method, memory)
    memory.save(tmp_path)
    here, names = Path(__file__).parent.parent, (chosen.__module__, chosen.__name__)
    command = [sys.executable, "-c", RECALLS, str(here), *names, str(tmp_path), QUESTION]
    done = subprocess.run(command, capture_output=True, text=True)
    recalled = [found.note.text for found in method.recall(QUESTION, memory=memory)]
    assert done.stdout.strip() == str(recalled), done.stderr
    loaded = NoteStore.load(tmp_path)
    assert loaded[0].dump() == memory[0].dump()
    tell(method, loaded, said={"more": "More."})
    assert "more" not in NoteStore.load(tmp_path)[0].sources


def test_a_killed_process_leaves_the_last_state(chosen, tmp_path):
    method = make(chosen)
    memory = method.open_memory(tmp_path)
    tell(method, memory)
    before = memory[0].dump()
    memory.close()
    process = os.fork()
    if process == 0:
        die_while_remembering(method, tmp_path)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGKILL
    again = method.open_memory(tmp_path)
    assert again[0].dump() == before
    tell(method, again, said={"half": "Whole again."})
    assert "Whole again." in method.recall("Whole again.", memory=again)[0].note.text


def die_while_remembering(method, path):
    """Killed when all is written and nothing committed."""
    kept = method.take_in

    def take_in(event, notes):
        kept(event, notes)
        os.kill(os.getpid(), signal.SIGKILL)

    method.take_in = take_in
    method.remember("Half of it.", "half", memory=method.open_memory(path))


def test_memory_none_is_the_off_switch(chosen):
    method = make(chosen)
    tell(method, method.memory)
    before = method.memory[0].dump()
    assert method.remember("x", memory=None) is None and method.recall(QUESTION, memory=None) == []
    reply = ask(method, memory=None)
    assert reply.found == [] and reply.prompt == [{"role": "user", "content": QUESTION}]
    with method.memory_off():
        assert method.recall(QUESTION) == []
    assert method.recall(QUESTION) != [] and method.memory[0].dump() == before


def test_a_memory_of_another_method_is_refused(chosen, tmp_path):
    other = next(method for method in METHODS if method is not chosen)
    make(other).open_memory(tmp_path)
    with pytest.raises(BankMismatchError, match=f"made by method {other.name}, not by {chosen.name}"):
        make(chosen).open_memory(tmp_path)
    with pytest.raises(BankMismatchError, match=f"made by method {other.name}, not by {chosen.name}"):
        make(chosen).recall("x", memory=NoteStore.load(tmp_path))


@pytest.mark.parametrize(
    "messages", [[], [{"role": "assistant", "content": "Hi."}], [{"role": "user", "content": " "}]]
)
def test_a_question_is_the_last_message(chosen, messages):
    with pytest.raises(LtmError, match="question|user's"):
        make(chosen).reply(messages)


def test_text_without_a_word_is_refused(chosen):
    method = make(chosen)
    for text in ("", " \n", "a\0b", "\ud800"):
        with pytest.raises(LtmError):
            method.remember(text, "empty")
    assert method.memory.is_empty


def test_a_backbone_answers_too(chosen, tiny_backbone):
    method = chosen.open(chosen.config_class.tiny(), Means(tiny_backbone("tiny-llama")))
    try:
        method.remember(SAID["letter"], "letter")
    except LtmError as error:  # a random model writes no JSON
        assert "\n" not in str(error) and method.memory.is_empty
    assert isinstance(method.reply([{"role": "user", "content": QUESTION}], max_tokens=5).text, str)


def test_a_card_says_where_it_comes_from(chosen):
    assert chosen.card.claim and chosen.speaks == "text" and chosen.config_class.tiny()
