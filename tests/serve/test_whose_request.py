"""The whole table of who is who: every place that names a user, and every kind of key."""

from __future__ import annotations

from itertools import combinations

import pytest

from ltm.serve.errors import ApiError
from ltm.serve.identity import SESSION_FIELDS, USER_FIELDS, Caller, Principal, resolve

BOUND, GATEWAY = Principal("me"), Principal(None)


def request(**named):
    """(headers, body) that name what is given, by field."""
    headers, body = [], {}
    for field, value in named.items():
        if field.lower().startswith("x-"):
            headers.append((field.swapcase(), value))  # case counts in no header
        elif "." in field:
            outer, inner = field.split(".")
            body.setdefault(outer, {})[inner] = value
        else:
            body[field] = value
    return headers, body


def test_the_order_is_the_contract():
    assert USER_FIELDS == (
        "memory.user",
        "X-LTM-User",
        "x-litellm-customer-id",
        "x-litellm-end-user-id",
        "X-OpenWebUI-User-Id",
        "safety_identifier",
        "user",
        "metadata.user_id",
    )


@pytest.mark.parametrize("field", USER_FIELDS)
def test_a_gateway_speaks_for_whom_it_names(field):
    assert resolve(GATEWAY, *request(**{field: "ann"})) == Caller("default", "ann")


@pytest.mark.parametrize("field", USER_FIELDS)
def test_a_bound_key_that_names_another_is_refused_with_the_field(field):
    with pytest.raises(ApiError) as caught:
        resolve(BOUND, *request(**{field: "ann"}))
    assert (caught.value.status, caught.value.code, caught.value.param) == (403, "memory_forbidden", field)
    assert "ann" not in caught.value.message and "me" not in caught.value.message.split()


@pytest.mark.parametrize("field", USER_FIELDS)
def test_a_bound_key_may_name_its_own(field):
    assert resolve(BOUND, *request(**{field: "me"})).user == "me"


@pytest.mark.parametrize(("first", "second"), list(combinations(USER_FIELDS, 2)))
def test_the_first_match_wins_for_a_gateway_and_any_other_name_is_refused_to_a_bound_key(first, second):
    assert resolve(GATEWAY, *request(**{second: "bob", first: "ann"})).user == "ann"
    for own, other in ((first, second), (second, first)):
        with pytest.raises(ApiError) as caught:
            resolve(BOUND, *request(**{own: "me", other: "bob"}))
        assert caught.value.param == other


@pytest.mark.parametrize("empty", [None, ""])
@pytest.mark.parametrize("field", USER_FIELDS)
def test_an_empty_name_is_none_and_the_next_counts(field, empty):
    named = {field: empty} if empty is not None or not field.lower().startswith("x-") else {}
    assert resolve(GATEWAY, *request(**named)).user is None
    assert resolve(BOUND, *request(**named)).user == "me"
    if field != "metadata.user_id":
        assert resolve(GATEWAY, *request(**named, **{"metadata.user_id": "zoe"})).user == "zoe"


@pytest.mark.parametrize("body", [{}, {"memory": None}, {"memory": "x"}, {"metadata": []}, {"metadata": {"team": "a"}}])
def test_nobody_named_is_no_memory_on_a_gateway_and_the_own_one_on_a_bound_key(body):
    assert resolve(GATEWAY, [("x-other", "ann")], body).user is None
    assert resolve(BOUND, [], body).user == "me"


@pytest.mark.parametrize("field", [field for field in USER_FIELDS if not field.lower().startswith("x-")])
@pytest.mark.parametrize("name", [5, ["ann"], {"a": 1}, True, "x" * 513, "  ", "\ud800"])
def test_what_is_no_name(field, name):
    for principal in (BOUND, GATEWAY):
        with pytest.raises(ApiError) as caught:
            resolve(principal, *request(**{field: name}))
        assert (caught.value.status, caught.value.param) == (400, field)


def test_a_header_twice():
    assert resolve(GATEWAY, [("x-ltm-user", "ann"), ("X-LTM-User", "ann")], {}).user == "ann"
    with pytest.raises(ApiError, match="2 times"):
        resolve(GATEWAY, [("x-ltm-user", "ann"), ("X-LTM-User", "bob")], {})


def test_a_header_in_utf8_is_the_same_user_as_in_the_body():
    header = "Zoë".encode().decode("latin-1")  # as servers hand it over
    assert resolve(GATEWAY, [("x-ltm-user", header)], {}) == resolve(GATEWAY, [], {"user": "Zoë"})


@pytest.mark.parametrize(("place", "field"), list(enumerate(SESSION_FIELDS)))
def test_sessions(place, field):
    later = dict.fromkeys(SESSION_FIELDS[place + 1 :], "late")
    assert resolve(BOUND, *request(**later, **{field: "s1"})).session == "s1"
    assert resolve(BOUND, [], {"conversation": {"id": "conv_1"}}).session == "conv_1"
    assert resolve(BOUND, [], {}).session is None


def test_directories_tell_nothing_and_differ_by_everything():
    names = ["ann", "Ann", "../../etc/passwd", "a" * 512, "x\0y", 'q"]', "Zoë"]
    people = [Caller(tenant, name, space) for name in names for tenant in "ab" for space in ("default", "work")]
    found = {one.directory(b"secret") for one in people}
    assert len(found) == len(people)
    assert all(len(name) == 64 and set(name) <= set("0123456789abcdef") for name in found)
    assert Caller("a", "ann").directory(b"other") not in found
    assert Caller("a", "ann", session="s").directory(b"secret") == Caller("a", "ann").directory(b"secret")
    with pytest.raises(ValueError):
        Caller("a", None).directory(b"secret")
