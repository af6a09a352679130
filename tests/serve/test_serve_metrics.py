"""What an answer leaves in the metrics: how long it took, and nothing of whose it was or what it said."""

from __future__ import annotations

from conftest import wait_for


def test_an_answer_is_timed_and_nobody_named(serve, text_model, keys):
    running = serve(text_model)
    client = running.client(keys.create("mine", user="quixotic")[1])
    ask = {"model": "tiny-llama", "messages": [{"role": "user", "content": "Zanzibar?"}], "max_tokens": 5}
    client.chat.completions.create(**ask)
    assert list(client.chat.completions.create(stream=True, **ask))

    def told():
        return running.server.metrics.text().decode()

    wait_for(lambda: 'route="/v1/chat/completions"} 2.0' in told())
    for name in ("ltm_time_to_first_token_seconds", "ltm_time_per_output_token_seconds"):
        assert f"{name}_count 2.0" in told()
        total = next(line for line in told().splitlines() if line.startswith(f"{name}_sum"))
        assert 0 < float(total.split()[1]) < 10
    assert "quixotic" not in told() and "Zanzibar" not in told()
