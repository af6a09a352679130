"""What a learner keeps beside trained weights, and the refusal of another's or of damage."""

from __future__ import annotations

import pytest
import torch

from ltm.errors import LtmError
from ltm.learning import Learner, create_learner
from ltm.training.saved_learner import continue_learner, kept_learner, save_learner


def trained(names=("a", "b")):
    learner = create_learner("ewc", strength=2.0)
    learner.begin(0, None, {name: torch.nn.Parameter(torch.ones(3)) for name in names})
    learner.load_state_dict({f"{part}|{name}": torch.rand(3) for part in ("importance", "center") for name in names})
    return learner


def test_plain_training_keeps_nothing(tmp_path):
    save_learner(Learner(), tmp_path)
    assert not any(tmp_path.iterdir()) and kept_learner(tmp_path) is None


def test_another_run_goes_on(tmp_path):
    learner, other = trained(), create_learner("ewc")
    save_learner(learner, tmp_path)
    assert kept_learner(tmp_path) == "ewc"
    continue_learner(other, tmp_path)
    assert all(torch.equal(tensor, other.inherited[name]) for name, tensor in learner.state_dict().items())
    other.begin(0, None, {"a": torch.nn.Parameter(torch.ones(3))})
    with pytest.raises(LtmError, match="importance is known of b, which is not trained now"):
        other.load_state_dict(other.inherited)


def test_anothers_and_damaged_files_are_told(tmp_path):
    save_learner(trained(), tmp_path)
    with pytest.raises(LtmError, match="was trained with learner ewc, not with plain; go on with the same"):
        continue_learner(Learner(), tmp_path)
    (tmp_path / "ltm_learner.safetensors").write_bytes(b"x" * 20)
    with pytest.raises(LtmError, match=r"ltm_learner.safetensors is damaged .*; train anew"):
        continue_learner(create_learner("ewc"), tmp_path)
    (tmp_path / "ltm_learner.json").write_text("{")
    with pytest.raises(LtmError, match=r"ltm_learner.json is damaged .*; remove it"):
        kept_learner(tmp_path)
