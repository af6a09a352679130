"""NewMethod: what its paper says, on a writer of a script and a few lines."""

from __future__ import annotations

import pytest

from ltm.cli.templates.text import NewMethod, NewMethodConfig
from ltm.errors import ConfigError
from ltm.text.means import Means

QUESTION = "Where is the brass key?"


class Script:
    """A writer that keeps the prompt and says what it was given."""

    name = "script"

    def write(self, messages, **options):
        self.prompt = messages
        return "Under the mat."


@pytest.fixture
def method():
    return NewMethod.open(NewMethodConfig.tiny(), Means(writer=Script()))


def test_defaults_are_the_papers():
    """A default that changes unnoticed is another method."""
    assert NewMethodConfig().num_notes == 5


def test_a_wrong_config_is_refused():
    with pytest.raises(ConfigError, match="num_notes=0"):
        NewMethodConfig(num_notes=0)


def test_what_was_remembered_stands_before_the_question(method):
    method.remember("The brass key lies under the doormat.", source="letter")
    method.remember("Wendy paints zeppelins on Thursdays.", source="talk")
    assert "doormat" in method.recall(QUESTION)[0].note.text
    assert method.reply([{"role": "user", "content": QUESTION}]).text == "Under the mat."
    assert any("doormat" in message["content"] for message in method.means.writer.prompt)


def test_what_was_forgotten_is_not_recalled(method):
    method.remember("The brass key lies under the doormat.", source="letter")
    method.forget("letter")
    assert method.recall(QUESTION) == []
