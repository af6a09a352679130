"""ltm methods: what the registry holds."""

from __future__ import annotations

from ltm.cli.declared import AsJson, new_app
from ltm.cli.options import config_options
from ltm.console import print_json, print_table
from ltm.methods import METHODS

app = new_app()


@app.command(epilog="Try: ltm methods --json")
def methods(as_json: AsJson = False) -> None:
    """The methods there are: name, paper and what each claims."""
    cards = METHODS.cards()
    if as_json:
        print_json([_describe(name) for name in cards])
        return
    rows = [
        (name, card.paper or "baseline", "yes" if card.needs_training else "no", card.claim)
        for name, card in cards.items()
    ]
    print_table(None, ("method", "paper", "trained", "claim"), rows, left=4)


def _describe(name: str) -> dict[str, object]:
    card, options = METHODS.card(name), config_options(METHODS[name].config_class)
    return {
        "name": name,
        "paper": card.paper or None,
        "claim": card.claim,
        "differs": card.differs or None,
        "needs_training": card.needs_training,
        "options": {option.name: {"default": option.default, "help": option.help} for option in options},
    }
