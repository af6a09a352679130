"""Figures of a server for Prometheus. No label says who: routes, codes and kinds alone."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)


class ServeMetrics:
    """Counters of one server; each has a registry of its own, so that several may run in a process.

    >>> metrics = ServeMetrics(); metrics.requests.labels("/health", "200").inc()
    >>> b'ltm_requests_total{code="200",route="/health"} 1.0' in metrics.text()
    True
    """

    def __init__(self) -> None:
        own = self.registry = CollectorRegistry()
        self.requests = Counter("ltm_requests", "Requests answered", ["route", "code"], registry=own)
        self.seconds = Histogram("ltm_request_seconds", "Of a whole request", ["route"], buckets=SECONDS, registry=own)
        self.first_token = Histogram(
            "ltm_time_to_first_token_seconds", "From request to first text", buckets=SECONDS, registry=own
        )
        self.each_token = Histogram(
            "ltm_time_per_output_token_seconds", "From first text to end, by tokens", buckets=SECONDS, registry=own
        )
        self.tokens = Counter("ltm_tokens", "Tokens: prompt, cached (of these), output", ["kind"], registry=own)
        self.auth_failures = Counter("ltm_auth_failures", "Requests without a key that counts", registry=own)
        self.write_failures = Counter("ltm_write_failures", "Turns not taken in", ["reason"], registry=own)
        self.turns = Counter("ltm_turns_written", "Turns written to logs", registry=own)
        self.queue_depth = Gauge("ltm_queue_depth", "Requests that wait for the model", registry=own)
        self.open_memories = Gauge("ltm_open_memories", "Memories that are open", registry=own)
        self.memory_bytes = Gauge("ltm_memory_bytes", "Bytes of the memories that are open", registry=own)
        self.evictions = Gauge("ltm_closed_memories", "Memories closed for the budget since the start", registry=own)

    def text(self) -> bytes:
        """In Prometheus' format."""
        return generate_latest(self.registry)
