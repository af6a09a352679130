"""transformers' own Trainer trains a method: what it saves is what was trained, and it goes on from there."""

from __future__ import annotations

import warnings

import pytest
import torch
from safetensors import safe_open
from transformers import Trainer, TrainingArguments

from ltm.backbone import load_backbone
from ltm.errors import LtmError
from ltm.methods import create_method, load_method, method_class

IDS = torch.randint(5, 200, (4, 32), generator=torch.Generator().manual_seed(0))
ROWS = [{"input_ids": row, "labels": row} for row in IDS]


def train(method, path, steps: int, resume=None) -> None:
    options = {"save_steps": 1, "report_to": [], "use_cpu": True, "disable_tqdm": True, "learning_rate": 1e-2}
    options |= {"lr_scheduler_type": "constant", "per_device_train_batch_size": 2}
    arguments = TrainingArguments(output_dir=str(path), max_steps=steps, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        Trainer(model=method, args=arguments, train_dataset=ROWS).train(resume_from_checkpoint=resume)


def new_method(name: str):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return create_method(name, load_backbone("tiny-llama"), **vars(method_class(name).config_class.tiny()))


def weights_of(method) -> torch.Tensor:
    return torch.cat([tensor.flatten() for tensor in method.trained_state().values()])


@pytest.mark.parametrize("name", ["longmem", "memorizing"])
def test_what_trainer_trains_is_saved_resumed_and_loaded(name, tmp_path):
    method = new_method(name)
    before = weights_of(method).clone()
    train(method, tmp_path / "a", 2)
    assert not torch.equal(weights_of(method), before) or name == "memorizing"  # nothing is remembered: no gradient
    with safe_open(tmp_path / "a" / "checkpoint-2" / "model.safetensors", framework="pt") as saved:
        assert set(saved.keys()) == {*method.trained_state(), "ltm_method"}  # no backbone
    loaded = load_method(load_backbone("tiny-llama"), tmp_path / "a" / "checkpoint-2")
    assert loaded.name == name and torch.equal(weights_of(loaded), weights_of(method))
    resumed = new_method(name)
    train(resumed, tmp_path / "b", 2, resume=str(tmp_path / "a" / "checkpoint-1"))
    assert torch.allclose(weights_of(resumed), weights_of(method), atol=1e-6)
    method.save_pretrained(tmp_path / "c")
    assert torch.equal(weights_of(load_method(load_backbone("tiny-llama"), tmp_path / "c")), weights_of(method))


def test_a_state_dict_is_what_was_trained_under_any_prefix():
    method, other = new_method("longmem"), new_method("longmem")
    other.load_state_dict(
        {name: torch.zeros_like(t) for name, t in method.state_dict().items() if name != "ltm_method"}
    )
    assert not weights_of(other).any()
    other.load_state_dict(method.state_dict())
    assert torch.equal(weights_of(other), weights_of(method))
    wrapped = torch.nn.ModuleDict({"inside": method}).state_dict()
    assert set(wrapped) == {f"inside.{name}" for name in method.state_dict()}
    with pytest.raises(LtmError, match="the state dict does not fit"):
        other.load_state_dict({"zork": torch.zeros(1)})


def test_a_checkpoint_of_something_else_is_no_method(tmp_path):
    model = load_backbone("tiny-llama").model
    model.save_pretrained(tmp_path)
    with pytest.raises(LtmError, match="holds no saved method"):
        load_method(load_backbone("tiny-llama"), tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(LtmError, match="is damaged"):
        load_method(load_backbone("tiny-llama"), tmp_path)
