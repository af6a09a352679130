"""Elastic weight consolidation against its naive form: importance, penalty, stages folded into one."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from reference.ewc import naive_fisher, naive_penalty, naive_text_fisher
from torch import nn
from torch.nn import functional

from ltm.errors import ConfigError, LtmError
from ltm.learning import LEARNERS, create_learner
from ltm.learning.ewc import Ewc, EwcConfig

VOCAB = 4


class Bigrams(nn.Module):
    """logits of the next token = head(embedding of this one); float64."""

    def __init__(self, seed: int = 0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.embedding = nn.Parameter(torch.randn(VOCAB, 3, generator=generator, dtype=torch.float64))
        self.head = nn.Parameter(torch.randn(VOCAB, 3, generator=generator, dtype=torch.float64))
        self.unused = nn.Parameter(torch.ones(2, dtype=torch.float64))

    def logits(self, ids):
        return self.embedding[ids] @ self.head.T

    def forward(self, input_ids, labels):
        logits = self.logits(input_ids)
        loss = functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        return SimpleNamespace(loss=loss, logits=logits)


def rows_of(*texts: str) -> list[torch.Tensor]:
    return [torch.tensor([int(letter) for letter in text]) for text in texts]


ROWS = rows_of("0123", "3310", "1110230")


def batches_of(rows):
    """Each row is a batch; what ends it early is padding."""
    for ids in rows:
        padded = torch.cat((ids, ids.new_zeros(2)))[None]
        yield {"input_ids": padded, "labels": padded.masked_fill(torch.arange(padded.shape[1]) >= len(ids), -100)}


def begun(method, **options) -> Ewc:
    learner = Ewc(EwcConfig(**options))
    learner.begin(0, method, dict(method.named_parameters()))
    return learner


def used(method) -> dict[str, nn.Parameter]:
    return {"embedding": method.embedding, "head": method.head}


def test_importance_of_drawn_labels_is_the_fisher_information_in_expectation():
    method = Bigrams()
    learner, exact = begun(method), naive_fisher(method.logits, used(method), ROWS)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        runs = [learner.fisher(method, batches_of(ROWS)) for _ in range(500)]
    for name, expected in exact.items():
        found = torch.stack([run[name] for run in runs])
        error = (found.mean(dim=0) - expected).abs()
        assert (error < 5 * found.std(dim=0) / len(runs) ** 0.5 + 1e-12).all()  # five standard errors
        assert (error < 0.2 * expected + 0.02).all() and expected.max() > 0.1
    assert not any(run["unused"].any() for run in runs)


def test_importance_of_the_text_is_the_square_of_a_batchs_summed_gradient():
    method = Bigrams()
    found = begun(method, labels="text").fisher(method, batches_of(ROWS))
    for name, expected in naive_text_fisher(method.logits, used(method), ROWS).items():
        torch.testing.assert_close(found[name], expected, rtol=1e-5, atol=1e-7)  # log-probabilities are float32


def stages(method, learner, count: int):
    """Weights move, a stage ends: (Fisher, weights) of each."""
    kept = []
    for stage in range(count):
        with torch.no_grad():
            for number, parameter in enumerate(used(method).values()):
                step = torch.sin(torch.arange(parameter.numel()) * (stage + 1.0) + number)
                parameter += 0.3 * step.view_as(parameter)
        rows = ROWS[stage : stage + 1]
        kept.append(
            (learner.fisher(method, batches_of(rows)), {n: p.detach().clone() for n, p in used(method).items()})
        )
        learner.end(stage, method, batches_of(rows))
    return kept


@pytest.mark.parametrize("count", [1, 3])
def test_folded_stages_pull_as_all_quadratics_do(count):
    method = Bigrams()
    learner = begun(method, strength=3.0, labels="text")
    kept = stages(method, learner, count)
    with torch.no_grad():
        method.head += 0.1
    nothing = SimpleNamespace(loss=torch.zeros((), dtype=torch.float64))
    penalty, naive = learner.loss(method, {}, nothing), naive_penalty(used(method), kept, 3.0)
    found, expected = (torch.autograd.grad(loss, list(used(method).values())) for loss in (penalty, naive))
    for own, other in zip(found, expected, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-9, atol=1e-12)
    assert found[1].abs().max() > 1e-3
    if count == 1:
        torch.testing.assert_close(penalty, naive)


def test_at_the_center_nothing_pulls_and_strength_0_adds_nothing():
    method = Bigrams()
    learner = begun(method, strength=7.0)
    output = method(**next(batches_of(ROWS)))
    assert learner.loss(method, {}, output) is output.loss  # the first stage
    learner.end(0, method, batches_of(ROWS))
    loss = learner.loss(method, {}, output)
    assert torch.equal(loss, output.loss)
    pulled = torch.autograd.grad(loss - output.loss, list(used(method).values()), allow_unused=True)
    assert not any(gradient.any() for gradient in pulled)
    with torch.no_grad():
        method.embedding += 1
    assert learner.loss(method, {}, output) > output.loss
    learner.config = EwcConfig(strength=0.0)
    assert torch.equal(learner.loss(method, {}, output), output.loss)


def test_what_matters_to_no_stage_is_free_and_its_center_goes_along():
    method = Bigrams()
    learner = begun(method)
    learner.end(0, method, batches_of(ROWS))
    with torch.no_grad():
        method.unused += 5
    learner.end(1, method, batches_of(ROWS))
    assert not learner.importance["unused"].any() and torch.equal(learner.center["unused"], method.unused)
    assert all(tensor.isfinite().all() for tensor in learner.state_dict().values())


def test_state_is_kept_and_only_the_asked_batches_are_read():
    method = Bigrams()
    learner, other, taken = begun(method, fisher_batches=2), begun(method), []

    def watched():
        for batch in batches_of(ROWS):
            taken.append(batch)
            yield batch

    learner.end(0, method, watched())
    assert len(taken) == 2
    other.load_state_dict(learner.state_dict())
    assert other.state_dict().keys() == {f"{part}|{n}" for part in ("importance", "center") for n in learner.center}
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in learner.state_dict().items())


def test_learners_go_by_name_and_tell_what_is_wrong():
    assert "ewc" in LEARNERS and LEARNERS.card("ewc").paper.startswith("Kirkpatrick")
    assert create_learner("ewc", strength=0.5).describe() == {"strength": 0.5, "fisher_batches": 64, "labels": "drawn"}
    with pytest.raises(ConfigError) as caught:
        EwcConfig(strength=-1.0, fisher_batches=0, labels="none")
    assert len(caught.value.problems) == 3
    with pytest.raises(ConfigError, match="learner ewc has no option lambda; it has: strength, fisher_batches, labels"):
        create_learner("ewc", **{"lambda": 1.0})
    with pytest.raises(LtmError, match="ewc"):
        create_learner("ewk")
