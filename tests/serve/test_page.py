"""The page as it lies in the wheel: what its headers allow, what its script may not do, and whether it can be read."""

from __future__ import annotations

import re
from urllib.request import Request, urlopen

import pytest

from ltm.serve.page_routes import PAGE

HTML, CSS, SCRIPT = ((PAGE / name).read_text() for name in ("index.html", "page.css", "page.js"))


@pytest.fixture
def running(serve, text_model):
    return serve(text_model)


@pytest.mark.parametrize("path, kind", [("/", "text/html"), ("/page.css", "text/css"), ("/page.js", "text/javascript")])
def test_it_is_served_to_whoever_comes_and_allows_nothing_else(running, path, kind):
    for method in ("GET", "HEAD"):
        with urlopen(Request(f"{running.url}{path}", method=method)) as response:
            assert response.headers["content-type"].startswith(kind)
            policy = response.headers["content-security-policy"]
            assert "default-src 'self'" in policy and "frame-ancestors 'none'" in policy and "unsafe" not in policy
            assert response.headers["x-content-type-options"] == "nosniff"
            assert response.headers["referrer-policy"] == "no-referrer"
            assert (len(response.read()) > 1000) == (method == "GET")


def test_it_is_small():
    assert len(SCRIPT.encode()) <= 40_000


def test_the_script_never_makes_markup_or_code_of_a_text():
    made = r"(inner|outer)HTML|insertAdjacentHTML|document\.write|createContextualFragment|DOMParser|setHTML|srcdoc"
    assert re.findall(rf"{made}|\beval\b|new Function|import\(|javascript:", SCRIPT) == []
    assert re.findall(r"set(?:Timeout|Interval)\(\s*[\"'`]", SCRIPT) == []
    stored = re.findall(r"(?:localStorage|sessionStorage)\.setItem\(([^,]+)", SCRIPT)
    assert stored == ['"ltm-memory"']  # a choice, never a key
    assert "document.cookie" not in SCRIPT


def test_nothing_comes_from_elsewhere_and_nothing_stands_in_line():
    assert re.findall(r"(?:href|src|action)=\"(?!page|icon|v1/|#)[^\"]*\"", HTML) == []
    assert "://" not in CSS and "url(" not in CSS and "@import" not in CSS
    assert re.findall(r"[\"'`]https?://", SCRIPT) == []  # fetches are relative: it works below any path
    assert re.findall(r"(?:call|send|fetch)\([^)]*[\"'`]/", SCRIPT) == []
    assert re.findall(r"<style|<script(?! type=\"module\" src=)|\sstyle=|\son\w+=", HTML) == []


def test_script_and_page_know_the_same_elements():
    ids = re.findall(r"\sid=\"([^\"]+)\"", HTML)
    asked = set(re.findall(r"\$\(\"([^\"]+)\"\)", SCRIPT))
    assert len(ids) == len(set(ids)) and asked and asked <= set(ids)
    for named in re.findall(r"(?:for|aria-controls|aria-labelledby|aria-describedby)=\"([^\"]+)\"", HTML):
        assert set(named.split()) <= set(ids)


def test_every_field_has_a_label():
    labelled = set(re.findall(r"<label[^>]*\sfor=\"([^\"]+)\"", HTML))
    inside = "".join(re.findall(r"<label(?![^>]*\sfor=).*?</label>", HTML))
    for tag in re.findall(r"<(?:input|select|textarea)[^>]*>", HTML):
        name = re.search(r"\sid=\"([^\"]+)\"", tag)
        assert tag in inside or (name and name[1] in labelled), tag


def luminance(colour):
    """Relative luminance of #rrggbb (WCAG 2.2)."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


TEXTS = [(text, back) for text in ("text", "soft", "main") for back in ("back", "card", "tint")]
TEXTS += [("bad", "back"), ("bad", "card"), ("bad", "bad-tint"), ("good", "good-tint"), ("on-main", "main")]
EDGES = [("edge", "back"), ("edge", "card"), ("main", "back"), ("main", "card")]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_can_be_told_apart(scheme):
    """WCAG AA: 4.5 for texts, 3 for what must be seen of fields and focus."""
    assert round(contrast("#000000", "#ffffff"), 2) == 21
    light, dark = CSS.split("@media (prefers-color-scheme: dark)", 1)
    rules = light if scheme == "light" else dark[: dark.index("\n}\n")]
    colours = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", rules))
    for pairs, least in ((TEXTS, 4.5), (EDGES, 3.0)):
        for one, other in pairs:
            assert contrast(colours[one], colours[other]) >= least, (scheme, one, other)
