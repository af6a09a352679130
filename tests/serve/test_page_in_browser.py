"""The page in a real browser, below a path of a proxy: what a person does, and script in memories, which never runs."""

from __future__ import annotations

import json
import time
from concurrent.futures import Future
from types import SimpleNamespace

import pytest
from chromium import Chromium, find_chromium
from conftest import Running, wait_for
from starlette.applications import Starlette
from starlette.routing import Mount

from ltm.serve.app import Server
from ltm.serve.engine import ChatReply, Choice
from ltm.serve.keys import USUAL
from ltm.serve.served_model import ServedModel
from ltm.serve.settings import ServeSettings

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_chromium() is None, reason="no Chromium on this machine"),
]
ATTACK = """# <img src=x onerror="window.ran=1">
<script>window.ran=1</script> <svg onload="window.ran=1"></svg>
[run](javascript:window.ran=1) [data](data:text/html,x) [odd](JaVaScRiPt:alert(1)) ![pixel](https://a.invalid/p)
- **<b onclick="window.ran=1">bold</b>** and `<i>code</i>`

| <img src=y onerror="window.ran=1"> | b |
|---|---|
| <iframe srcdoc="<script>top.ran=1</script>"> | [ok](https://a.invalid/?q=<script>) |

```html
<img src=z onerror="window.ran=1">
```
"""


class Scripted:
    """The server's engine, but for an answer that is given word by word."""

    def __init__(self, engine, text, memory_id):
        self.engine, self.text, self.memory_id, self.works = engine, text, memory_id, []

    def answer(self, work, listener):
        self.works.append(work)
        for piece in self.text.splitlines(keepends=True):
            listener.hear(0, piece)
        used = (
            [{"id": self.memory_id, "score": 0.5, "source": "user", "t": "2026-11-27T09:05:00Z"}] if work.reads else []
        )
        future = Future()
        future.set_result(ChatReply([Choice(self.text, "stop", 7)], 9, 0, used, [], None, 1.0))
        return future

    def __getattr__(self, name):
        return getattr(self.engine, name)


@pytest.fixture
def running(tmp_path, keys, text_model):
    """A server below /memory/, as a proxy would put it."""
    server = Server(ServeSettings.load(data_dir=tmp_path / "data", max_tokens=8), keys, text_model)
    made = Running(SimpleNamespace(app=Starlette(routes=[Mount("/memory", server.app)])))
    made.server = server
    yield made
    made.stop()
    server.close()


@pytest.fixture
def client(running, keys):
    """The same user's, by a key of one who likes markup in names."""
    text = keys.create('<img src=x onerror="window.ran=1">', user="me", scopes=[*USUAL, "admin"])[1]
    running.url += "/memory"
    return running.client(text)


def add(client, text):
    return client.post("/memory/items", cast_to=dict, body={"text": text})["id"]


def items(client):
    return [one["text"] for one in client.get("/memory/items", cast_to=dict)["data"]]


@pytest.fixture
def page(tmp_path, running, client):
    with Chromium(tmp_path / "profile") as made:
        made.size(800)
        made.open(f"{running.url}/#token={running.server.sessions.link_token()}")
        made.until("document.activeElement.id === 'question'")
        yield made


def ask(page, text):
    page.value("document.getElementById('question').focus()")
    page.type(text)
    page.press("Enter")
    page.until("document.querySelector('.turn.assistant:last-child .under') && true")


def press(page, words, inside="body"):
    """The first button that says so."""
    button = f"[...document.querySelectorAll('{inside} button')].find(one => one.textContent === {json.dumps(words)})"
    page.until(f"{button} && true")
    page.value(f"{button}.click()")


def show(page, tab):
    page.click(f"#tab-{tab}")
    page.until(f"!document.getElementById('{tab}').hidden")


def test_script_in_memories_and_answers_never_runs(page, running, client):
    item = add(client, ATTACK)
    running.server.engine = Scripted(running.server.engine, ATTACK, item)
    ask(page, ATTACK)
    page.until("document.querySelector('.chip span')?.textContent.startsWith('# <img')")
    assert page.value("document.querySelectorAll('.words :is(h3, table, pre, li, code)').length") >= 5  # it is markdown
    links = page.value("[...document.querySelectorAll('#turns a')].map(a => a.getAttribute('href'))")
    assert links == ["https://a.invalid/p", "https://a.invalid/?q=%3Cscript%3E"]
    page.click(".chip")
    page.until("document.getElementById('dialog').open")
    page.until("document.querySelector('#dialog .text').textContent.includes('<script>')")
    page.value("document.getElementById('dialog').close()")
    client.patch(
        f"/memory/items/{item}", cast_to=dict, body={"text": f"Now: {ATTACK}", "reason": "<img src=x onerror=1>"}
    )
    show(page, "memories")
    page.until("document.querySelector('#memory-list .text')?.textContent.startsWith('Now:')")
    press(page, "History", "#memory-list")
    page.until("document.querySelector('#dialog ins') && true")
    page.value("document.getElementById('dialog').close()")
    show(page, "settings")
    show(page, "admin")
    page.until("document.querySelector('#keys td')?.textContent.startsWith('<img')")
    assert page.value("window.ran === undefined")
    assert (
        page.value("document.querySelectorAll('main img, main script, main iframe, main svg, dialog img').length") == 1
    )
    assert all(
        one.startswith((f"{running.url}/", "data:image/svg+xml")) for one in page.requested
    )  # data: a date's icon
    assert page.complaints == []


ENDLESS = [
    "**a ",
    "`a ",
    "[a](",
    "![",
    "> ",
    "- ",
    "* _",
    "|a",
    "~~a",
    "1. ",
    "__a**",
    "(((",
    "```\n",
    "https://a.b(",
    "\n  - ",
    "\n>",
]


def test_no_answer_makes_the_page_hang(page, running, client):
    add(client, "My cat is Tom.")
    texts = [
        *(one * (29_000 // len(one)) for one in ENDLESS),
        "".join(f"{'  ' * n}- a\n" for n in range(150)),
        "x" * 200_000,
    ]
    engine = running.server.engine
    for text in texts:
        running.server.engine = Scripted(engine, text, "mem_0")
        page.click("#new-chat")
        started = time.monotonic()
        ask(page, "Go on.")
        assert time.monotonic() - started < 4, text[:8]
    assert [one for one in page.complaints if "404" not in one] == []  # mem_0 is not there


def test_no_script_could_take_the_key(page, running):
    assert page.value("document.cookie") == "" and page.value("Object.keys(localStorage).length") == 0
    assert page.value("location.hash") == "" and "token=" not in page.value("location.href")
    (cookie,) = page.call("Network.getCookies")["cookies"]
    assert cookie["httpOnly"] and cookie["sameSite"] == "Strict" and cookie["path"] == "/memory/"
    told = page.value("fetch('v1/memory/items', {method: 'POST', body: '{\"text\": \"x\"}'}).then(one => one.status)")
    assert told == 403  # without the token of the page


def test_a_deletion_can_be_undone_and_is_sent_on_leaving(page, client):
    add(client, "My cat is Tom.")
    show(page, "memories")
    press(page, "Delete", "#memory-list")
    press(page, "Undo", "#memory-list")
    page.until("document.activeElement.textContent === 'Correct'")  # the focus is not lost
    press(page, "Delete", "#memory-list")
    page.until("document.querySelector('.gone') && true")
    assert items(client) == ["My cat is Tom."]
    page.open("about:blank")
    wait_for(lambda: items(client) == [])


def test_a_memory_is_added_corrected_and_found(page, client):
    show(page, "memories")
    page.value("document.querySelector('#memories details').open = true")
    page.value("document.getElementById('add-text').focus()")
    page.type("My cat is Tom.")
    press(page, "Remember")
    press(page, "Correct", "#memory-list")
    page.value("document.activeElement.select()")
    page.type("My cat is Tim.")
    press(page, "Put in its place")
    page.until("document.querySelector('#memory-list .text')?.textContent === 'My cat is Tim.'")
    assert items(client) == ["My cat is Tim."]
    for query, count in (("cat", 1), ("zebra quagga", None)):
        page.value(f"document.getElementById('search-query').value = '{query}'")
        press(page, "Search")
        page.until("document.getElementById('memories-count').textContent.includes('best first')")
        assert count is None or page.value("document.querySelectorAll('#memory-list .item').length") == count


def test_a_temporary_chat_neither_reads_nor_writes(page, running, client):
    running.server.engine = scripted = Scripted(running.server.engine, "Yes.", add(client, "My cat is Tom."))
    ask(page, "Mine is this.")
    page.click("#temporary")
    assert page.value("document.querySelectorAll('.turn').length") == 0  # nothing is carried over
    ask(page, "A secret.")
    press(page, "Regenerate")
    wait_for(lambda: len(scripted.works) == 3)
    assert [(work.reads, work.writes) for work in scripted.works] == [(True, True), (False, False), (False, False)]
    assert [work.messages[-1]["content"] for work in scripted.works] == ["Mine is this.", "A secret.", "A secret."]
    assert scripted.works[2].options["temperature"] == 0.8 and len(scripted.works[2].messages) == 1
    assert scripted.works[0].caller.session != scripted.works[1].caller.session


def test_a_trace_shows_the_words_that_each_memory_moved(page, running, client):
    answer = "Tom <b>is</b> my cat."
    running.server.engine = Scripted(running.server.engine, answer, add(client, "My cat is called <i>Tom</i>."))
    ask(page, "Who is my cat?")
    press(page, "Trace", "#turns")
    page.until("document.querySelector('#trace .passages button') && true")
    assert page.value("document.querySelector('#trace .text').textContent") == answer
    assert "<i>Tom</i>." in page.value("document.querySelector('#trace .passages button').textContent")
    for pressed in ("true", "false"):
        page.click("#trace .passages button")
        assert page.value("document.querySelector('#trace .passages button').ariaPressed") == pressed
    assert page.complaints == []


def documents(client):
    return [one["name"] for one in client.get("/memory/documents", cast_to=dict)["data"]]


def test_documents_are_uploaded_listed_and_deleted(page, client, tmp_path):
    (tmp_path / "a b&c.txt").write_text("<b>The barn is red.</b>")
    (tmp_path / "bad.txt").write_bytes(b"\xff\xfe\x00")
    show(page, "documents")
    page.until("document.getElementById('document-list').textContent.includes('no document')")
    page.choose_file("#upload-file", tmp_path / "a b&c.txt", tmp_path / "bad.txt")
    press(page, "Upload")
    page.until("document.getElementById('alert').textContent.includes('bad.txt is no text')")
    assert documents(client) == ["a b&c.txt"]
    show(page, "chat")
    ask(page, "Which colour has the barn?")
    page.until("document.querySelector('.chip span')?.textContent.startsWith('<b>The barn')")
    assert "a document" in page.value("document.querySelector('.chip').title")
    show(page, "documents")
    page.until("document.querySelector('#document-list .hint')?.textContent.endsWith('23 characters')")
    press(page, "Delete", "#document-list")
    page.until("document.querySelector('.gone') && true")
    assert documents(client)
    show(page, "chat")
    ask(page, "Hello.")  # whoever asks does so without what was deleted
    assert documents(client) == []


def test_by_keyboard_alone(page):
    page.value("document.getElementById('tab-chat').focus()")
    for tab in ("memories", "documents", "trace", "settings", "admin", "chat"):
        page.press("ArrowRight")
        page.until(f"document.activeElement.id === 'tab-{tab}' || document.activeElement.id === 'question'")
        page.until(f"document.getElementById('tab-{tab}').getAttribute('aria-selected') === 'true'")
    assert page.value("document.querySelectorAll('[role=tab][tabindex=\"0\"]').length") == 1


@pytest.mark.parametrize("width", [360, 800, 1280])
def test_nothing_is_wider_than_the_window(page, client, width):
    add(client, "A" * 300 + " `code` https://a.invalid/" + "b" * 200)
    page.size(width)
    for tab in ("chat", "memories", "documents", "trace", "settings", "admin"):
        show(page, tab)
        page.until("document.documentElement.scrollWidth <= innerWidth")


TABS_SHOWN = "[...document.querySelectorAll('[role=tab]')].filter(tab => !tab.hidden).map(tab => tab.textContent)"


@pytest.mark.parametrize(
    "scopes, tabs",
    [
        (["chat"], ["Chat", "Settings"]),
        (["memory:read"], ["Memories", "Documents", "Trace", "Settings"]),
        (["chat", "memory:write", "admin"], ["Chat", "Settings", "Admin"]),
    ],
)
def test_what_a_key_may_not_is_not_shown(tmp_path, running, keys, client, scopes, tabs):
    add(client, "My cat is Tom.")
    text = keys.create("few", user="me", scopes=scopes)[1]
    with Chromium(tmp_path / "profile") as page:
        page.open(f"{running.url}/")
        page.until("!document.getElementById('login').hidden")
        page.value("document.getElementById('login-key').focus()")
        page.type(text)
        page.press("Enter")
        page.until("!document.getElementById('app').hidden")
        shown = page.value(
            "[...document.querySelectorAll('[role=tab]')].filter(tab => !tab.hidden).map(tab => tab.textContent)"
        )
        assert shown == tabs
        for tab in tabs:
            show(page, tab.lower())
        if "Chat" in tabs:
            show(page, "chat")
            ask(page, "Hello.")
            assert page.value("document.querySelector('.turn .error')?.textContent") is None
        else:
            show(page, "memories")
            page.until("document.querySelector('#memory-list .item') && true")
            buttons = page.value("[...document.querySelectorAll('#memory-list button')].map(one => one.textContent)")
            assert buttons == ["History", "Source"] and page.value("document.getElementById('erase').hidden")
        assert page.value("document.getElementById('alert').hidden") and page.complaints == []


def test_a_server_without_memory(tmp_path, serve, backbone, keys):
    running, text = serve(ServedModel(backbone)), keys.create("mine", user="me")[1]
    with Chromium(tmp_path / "profile") as page:
        page.open(f"{running.url}/")
        page.until("!document.getElementById('login').hidden")
        page.value("document.getElementById('login-key').focus()")
        page.type(text)
        page.press("Enter")
        page.until("document.activeElement.id === 'question'")
        ask(page, "Hello.")
        show(page, "settings")
        shown = page.value(
            "[...document.querySelectorAll('[role=tab]')].filter(tab => !tab.hidden).map(tab => tab.textContent)"
        )
        assert shown == ["Chat", "Settings"] and page.value("document.getElementById('erase').hidden")
        assert page.complaints == []


def test_logging_out_and_in(page, running, keys):
    show(page, "settings")
    press(page, "Log out")
    page.until("!document.getElementById('login').hidden")
    assert page.call("Network.getCookies")["cookies"] == []
    for text, words in (("ltm_wrong", "no key that counts"), (keys.create("mine", user="ann")[1], "")):
        page.value("document.getElementById('login-key').focus()")
        page.type(text)
        page.press("Enter")
        page.until(f"document.getElementById('login-error').textContent.includes('{words}')")
    page.until("document.getElementById('who').textContent === 'ann'")
    assert page.value("document.getElementById('tab-admin').hidden")
