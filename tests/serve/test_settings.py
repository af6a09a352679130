"""Settings: which source wins, what values mean, what is refused."""

from __future__ import annotations

from datetime import timedelta

import pytest

from ltm.errors import ConfigError, LtmError
from ltm.serve.settings import ServeSettings


@pytest.fixture(autouse=True)
def no_environment(monkeypatch):
    for name in ("PORT", "HOST", "MODEL", "MEMORY", "API_KEY", "DATA_DIR"):
        monkeypatch.delenv(f"LTM_{name}", raising=False)


def test_the_command_line_wins_over_the_environment_over_the_file_over_defaults(tmp_path, monkeypatch):
    file = tmp_path / "server.toml"
    file.write_text('port = 1\nmodel = "a"\nretention = "90d"\nmemory_budget = "2 MB"\n')
    assert ServeSettings.load().port == 8000
    assert ServeSettings.load(file).port == 1 and ServeSettings.load(file).model == "a"
    monkeypatch.setenv("LTM_PORT", "2")
    settings = ServeSettings.load(file, model=None)
    assert (settings.port, settings.model) == (2, "a")
    assert ServeSettings.load(file, port=3).port == 3
    assert settings.retention == timedelta(days=90) and settings.memory_budget == 2_000_000
    assert ServeSettings.load().port == 2  # the file of one call is not the next one's


@pytest.mark.parametrize(
    ("said", "meant"), [("2GB", 2 * 10**9), ("1.5 mb", 1_500_000), ("7k", 7000), ("4096", 4096), (5, 5)]
)
def test_bytes(said, meant):
    assert ServeSettings.load(memory_budget=said).memory_budget == meant


@pytest.mark.parametrize(("said", "meant"), [("12h", 12), ("8w", 8 * 168), ("none", None)])
def test_retention(said, meant):
    span = ServeSettings.load(retention=said).retention
    assert span == (None if meant is None else timedelta(hours=meant))


def test_all_problems_are_told_together_in_one_line_and_no_key_is_shown():
    with pytest.raises(ConfigError) as caught:
        ServeSettings.load(port=99999, retention="soon", queue_size="many", colour="red", api_key=["secret"])
    said = str(caught.value)
    assert len(caught.value.problems) == 5 and "\n" not in said and "secret" not in said
    assert "port=99999: input should be less than or equal to 65535" in said
    assert (
        "retention='soon': use hours, days or weeks" in said and "there is no setting colour; there are: host" in said
    )


def test_a_file_that_is_missing_or_no_toml(tmp_path):
    with pytest.raises(LtmError, match="is not there; give a TOML file"):
        ServeSettings.load(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("port = = 3")
    with pytest.raises(LtmError, match="bad.toml cannot be read"):
        ServeSettings.load(tmp_path / "bad.toml")


@pytest.mark.parametrize(
    ("host", "is_local"),
    [("127.0.0.1", True), ("127.8.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False)]
    + [("192.168.1.2", False), ("box.example", False), ("localhost.example", False)],
)
def test_who_can_reach_it(host, is_local):
    assert ServeSettings.load(host=host).is_local is is_local


def test_memories_have_plain_names():
    assert [ServeSettings.load(memory=name).method for name in ("longmem", "text", "off", "em-llm")] == [
        "longmem",
        "rag",
        "full",
        "em-llm",
    ]
