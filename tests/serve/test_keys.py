"""Keys: shown once, kept as hashes, bound or gateways, ended and revoked."""

from __future__ import annotations

from datetime import timedelta

import pytest

from ltm.errors import LtmError
from ltm.serve import keys as keys_module
from ltm.serve.identity import Principal
from ltm.serve.keys import CONTROL, KeyStore, stamp, utc_now


@pytest.fixture
def store(tmp_path):
    made = KeyStore(tmp_path / "data")
    yield made
    made.close()


def test_a_key_is_found_by_its_text_alone_and_its_text_is_nowhere(store, tmp_path):
    key, text = store.create("laptop", user="me")
    assert text.startswith("ltm_") and len(text) > 40 and text.startswith(key.shown)
    assert store.find(text) == key and key.principal == Principal("me")
    assert [store.find(other) for other in ("", "ltm_", text[:-1], text + "x", key.shown, "ü" * 40)] == [None] * 6
    file = tmp_path / "data" / CONTROL
    assert text.encode() not in file.read_bytes() and text[8:].encode() not in file.read_bytes()
    assert file.stat().st_mode & 0o077 == 0 and file.parent.stat().st_mode & 0o077 == 0


def test_bound_keys_and_gateways(store):
    bound, _ = store.create("a", user="ann", scopes=["chat"])
    gateway, _ = store.create("b", tenant="acme")
    assert bound.may("chat") and not bound.may("memory:write") and not bound.may("gateway")
    assert gateway.may("gateway") and gateway.may("memory:read") and gateway.principal == Principal(None, "acme")
    with pytest.raises(LtmError, match="bound to none"):
        store.create("c", user="ann", scopes=["gateway"])
    with pytest.raises(LtmError, match="there is no scope root; there are: chat"):
        store.create("c", user="ann", scopes=["root"])
    with pytest.raises(LtmError, match="name is empty"):
        store.create("c", user=" ")
    assert len(store.all()) == 2


def test_a_key_ends(store, monkeypatch):
    key, text = store.create("short", user="me", expires=timedelta(hours=1))
    assert store.find(text) == key
    now = utc_now()
    monkeypatch.setattr(keys_module, "utc_now", lambda: now + timedelta(hours=1, seconds=1))
    assert store.find(text) is None and [one.name for one in store.all()] == ["short"]
    with pytest.raises(LtmError, match="a time to come"):
        store.create("never", user="me", expires=timedelta(0))


def test_last_use_is_noted_but_not_at_every_use(store, monkeypatch):
    _, text = store.create("a", user="me")
    now = utc_now()
    seen = []
    for seconds in (0, 30, 90):
        monkeypatch.setattr(keys_module, "utc_now", lambda later=seconds: now + timedelta(seconds=later))
        store.find(text)
        seen.append(store.all()[0].used)
    assert seen == [stamp(now), stamp(now), stamp(now + timedelta(seconds=90))]


def test_revoked_at_once_by_id_name_or_beginning_for_all_who_have_it_open(store, tmp_path):
    other = KeyStore(tmp_path / "data")
    made = [store.create(name, user="me") for name in ("a", "b", "c")]
    for (_, text), called in zip(made, (str(made[0][0].id), "b", made[2][0].shown), strict=True):
        assert other.find(text) is not None
        store.revoke(called)
        assert other.find(text) is None and store.find(text) is None
    with pytest.raises(LtmError, match="no keys are called b; give the id of one: none"):
        store.revoke("b")
    fourth, _ = store.create("d", user="me")
    assert fourth.id == 4  # an id is never given twice
    store.create("d", user="me")
    with pytest.raises(LtmError, match="2 keys are called d; give the id of one: 4"):
        store.revoke("d")
    other.close()


def test_the_first_start_makes_one_key(store):
    text = store.first()
    key = store.find(text)
    assert key.user == "me" and key.may("admin") and not key.may("gateway")
    assert store.first() is None and len(store.all()) == 1


def test_a_first_key_that_is_given(store):
    given = "ltm_" + "x" * 30
    assert store.first(given) == given and store.first(given) is None
    assert store.find(given).user == "me"
    for bad in ("short", "x y" * 20, "ü" * 40):
        with pytest.raises(LtmError, match="no key; give 24"):
            store.first(bad)


def test_the_secret_stays_and_another_server_has_another(store, tmp_path):
    secret = store.secret
    assert len(secret) == 32 and store.secret == secret
    again, other = KeyStore(tmp_path / "data"), KeyStore(tmp_path / "elsewhere")
    assert again.secret == secret != other.secret
    again.close(), other.close()


def test_users_are_noted_once(store):
    for _ in range(2):
        store.note_user("ab12", "default", "ann", "default")
    assert store.database.run("SELECT directory, user FROM users") == [("ab12", "ann")]
