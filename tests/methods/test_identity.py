"""A memory belongs to the backbone as it was: what is trained, added or set later is noticed before memory is used."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ltm.backbone import Backbone, load_backbone
from ltm.backbone.tiny import build_tiny
from ltm.bank import Bank
from ltm.errors import BankMismatchError, LtmError
from ltm.methods import create_method, load_method, method_class
from ltm.text.session import Session

IDS = torch.randint(3, 250, (1, 40), generator=torch.Generator().manual_seed(0))
BANK_METHODS = ("longmem", "memorizing", "em_llm", "quest")
ASKED = {"max_new_tokens": 6, "do_sample": False}


class LoraLinear(nn.Module):
    """An adapter as small as one can be: x W^T + x A^T B^T."""

    def __init__(self, base: nn.Linear):
        super().__init__()
        self.base = base
        self.down = nn.Parameter(torch.randn(2, base.in_features) * 0.3)
        self.up = nn.Parameter(torch.randn(base.out_features, 2) * 0.3)

    def forward(self, hidden):
        return self.base(hidden) + hidden @ self.down.T @ self.up.T


def put_on_lora(backbone: Backbone) -> None:
    for layer in backbone.view.layers:
        layer.self_attn.k_proj = LoraLinear(layer.self_attn.k_proj)


@torch.no_grad()
def merge_lora(backbone: Backbone) -> None:
    """As adapters are merged: no version counter moves."""
    for layer in backbone.view.layers:
        weight = layer.self_attn.k_proj.weight
        weight.data += (torch.randn(weight.shape[0], 2) @ torch.randn(2, weight.shape[1])) * 1e-3


def change_eps(backbone: Backbone) -> None:
    for layer in backbone.view.layers:
        layer.input_layernorm.variance_epsilon = 0.5


def replace_forward(backbone: Backbone) -> None:
    mlp = backbone.view.layers[0].mlp
    mlp.forward = lambda hidden: hidden * 0


@torch.no_grad()
def edit_one_weight(backbone: Backbone) -> None:
    """In the middle of a matrix, between the samples; the smallest step there is."""
    weight = backbone.view.layers[3].mlp.up_proj.weight
    weight[weight.shape[0] // 2, 3] = torch.nextafter(weight[weight.shape[0] // 2, 3], torch.tensor(9.0))


def train_a_step(backbone: Backbone) -> None:
    """One row of one matrix."""
    weight = backbone.view.layers[0].self_attn.k_proj.weight.requires_grad_(True)
    optimizer = torch.optim.SGD([weight], lr=10.0)
    with torch.enable_grad():
        weight[2].sum().backward()
    optimizer.step()
    weight.requires_grad_(False)


def load_others(backbone: Backbone) -> None:
    state = backbone.model.state_dict()
    name = "model.layers.2.self_attn.v_proj.weight"
    backbone.model.load_state_dict({**state, name: state[name] * 1.1})


CHANGES = {
    put_on_lora: "added: bank none, backbone .*LoraLinear: 6",
    merge_lora: "weights: bank",
    change_eps: r"modules: variance_epsilon: bank \[1e-06\], backbone \[0.5, 1e-06\]",
    replace_forward: r"replace_forward.*\(forward\)",
    edit_one_weight: "weights: a few single ones are others",
    train_a_step: "weights: ",
    load_others: "weights: bank",
}


def read_something(name: str, backbone: Backbone):
    method = create_method(name, backbone, **vars(method_class(name).config_class.tiny())).eval()
    method.use_bank(method.new_bank(1))
    method.read(IDS)
    return method


@pytest.mark.parametrize(
    ("name", "change"),
    [*((name, put_on_lora) for name in BANK_METHODS), *(("em_llm", change) for change in [*CHANGES][1:])],
    ids=lambda value: getattr(value, "__name__", value),
)
@torch.no_grad()
def test_a_backbone_that_changed_later_writes_and_reads_no_memory(name, change):
    backbone = load_backbone("tiny-llama")
    method = read_something(name, backbone)
    before, held = method(IDS[:, :5]).logits, method.bank.num_tokens(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        change(backbone)
    for use in (lambda: method.read(IDS), lambda: method(IDS[:, :5]), lambda: method.generate(IDS[:, :5], **ASKED)):
        with pytest.raises(BankMismatchError, match="has changed since") as caught:
            use()
    with pytest.raises(BankMismatchError, match=CHANGES[change]):
        method.use_bank(method.bank)
    assert "\n" not in str(caught.value) and method.bank.num_tokens(0) == held
    new = read_something(name, backbone)  # a new memory belongs to the backbone as it is now
    assert not torch.allclose(new(IDS[:, :5]).logits, before)


@pytest.mark.parametrize("name", BANK_METHODS)
@torch.no_grad()
def test_what_was_read_with_an_adapter_is_refused_by_the_bare_backbone(name, tmp_path):
    backbone = load_backbone("tiny-llama")
    assert backbone.fingerprint == load_backbone("tiny-llama").fingerprint
    put_on_lora(backbone)
    read_something(name, backbone).bank.save(tmp_path / "a.bank")
    with pytest.raises(BankMismatchError, match="weights: bank .*added: bank .*LoraLinear: 6, backbone none"):
        Bank.load(tmp_path / "a.bank", fingerprint=load_backbone("tiny-llama").fingerprint)
    with pytest.raises(BankMismatchError, match="LoraLinear"):
        read_something(name, load_backbone("tiny-llama")).use_bank(Bank.load(tmp_path / "a.bank"))


def test_a_session_refuses_it_too(tmp_path):
    backbone = load_backbone("tiny-llama")
    put_on_lora(backbone)
    session = Session(create_method("em_llm", backbone), path=tmp_path / "a.bank")
    session.read("The Alma came in with salt and rope.", "a")
    with pytest.raises(BankMismatchError, match="LoraLinear"):
        Session.open(tmp_path / "a.bank", method="em_llm")


def test_an_adapter_of_peft_is_part_of_the_identity():
    peft = pytest.importorskip("peft")
    backbone = load_backbone("tiny-llama")
    bare = backbone.fingerprint
    wrapped = peft.get_peft_model(backbone.model, peft.LoraConfig(target_modules=["k_proj"], init_lora_weights=False))
    with_adapter = backbone.fingerprint
    assert [line.split(":")[0] for line in bare.differences(with_adapter)][0] == "weights"
    assert any("added" in line and "peft" in line for line in bare.differences(with_adapter))
    with wrapped.disable_adapter():
        assert with_adapter.differences(backbone.fingerprint)
    wrapped.merge_adapter()
    assert with_adapter.differences(backbone.fingerprint)
    wrapped.unmerge_adapter()
    merged = wrapped.merge_and_unload()
    assert any(
        "weights" in line for line in bare.differences(Backbone("merged", merged, backbone.tokenizer).fingerprint)
    )


@torch.no_grad()
def test_a_change_that_is_taken_back_is_none():
    backbone = load_backbone("tiny-llama")
    method = read_something("em_llm", backbone)
    before = method(IDS[:, :5]).logits
    weight = backbone.view.layers[0].self_attn.k_proj.weight
    kept = weight.clone()
    weight.data += 1
    with pytest.raises(BankMismatchError):
        method(IDS[:, :5])
    weight.data.copy_(kept)
    assert torch.equal(method(IDS[:, :5]).logits, before)
    backbone.model.load_state_dict(build_tiny("tiny-llama")[0].state_dict())
    method.read(IDS)


def test_being_asked_in_between_looks_once_a_stream(monkeypatch):
    """One look at a prompt, none for each new token."""
    looks = []
    backbone = load_backbone("tiny-llama")
    method = read_something("em_llm", backbone)
    own = Backbone.fingerprint.fget
    monkeypatch.setattr(Backbone, "fingerprint", property(lambda self: looks.append(1) or own(self)))
    method.generate(IDS[:, :5], **ASKED)
    assert len(looks) == 1


def test_a_hook_that_watches_is_no_other_backbone():
    backbone, seen = load_backbone("tiny-llama"), []
    method = read_something("em_llm", backbone)
    hook = backbone.view.layers[2].register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    method(IDS[:, :5])
    hook.remove()
    assert len(seen) == 1


def trained_a_step(method) -> None:
    """The last weight of the network beside the backbone, by the least there is."""
    with torch.no_grad():
        weight = [*method.sidenet.parameters()][-1].view(-1)
        weight[-1] = torch.nextafter(weight[-1], torch.tensor(9.0))


def read_with_longmem(coupled: bool):
    options = {**vars(method_class("longmem").config_class.tiny()), "coupled": coupled}
    method = create_method("longmem", load_backbone("tiny-llama"), **options).eval()
    method.read(IDS)
    return method


@torch.no_grad()
def test_what_a_trained_network_wrote_belongs_to_it_as_it_was(tmp_path):
    method = read_with_longmem(coupled=True)
    method.bank.save(tmp_path / "a.bank")
    before = method.writer_digest
    trained_a_step(method)
    assert method.writer_digest != before
    told = (
        f"bank of the trained network {before}, model of the trained network {method.writer_digest}; .* read the text"
    )
    for use in (lambda: method.read(IDS), lambda: method(IDS[:, :5])):
        with pytest.raises(BankMismatchError, match=told):
            use()
    with pytest.raises(BankMismatchError, match=f"model of the trained network {method.writer_digest}; read the text"):
        method.load_memory(tmp_path / "a.bank")
    method.memory = method.new_memory()
    method.read(IDS)
    assert method.bank.writer_digest == method.writer_digest
    method.in_training = True  # its weights change with every step
    trained_a_step(method)
    method.read(IDS)
    method.load_memory(tmp_path / "a.bank")


@torch.no_grad()
def test_what_the_backbone_wrote_stays_good_while_the_network_beside_it_is_trained():
    method = read_with_longmem(coupled=False)
    trained_a_step(method)
    method.read(IDS)
    assert method.bank.writer_digest is None is method.writer_digest


@torch.no_grad()
def test_a_built_in_backbone_is_let_pass_with_other_weights_only_as_it_was_loaded(monkeypatch, tmp_path):
    """Copies from the hub are rounded otherwise than those from the package; what was trained since is no copy."""
    monkeypatch.setattr("ltm.methods.saving.BUILTIN_MODELS", {"tiny-llama": None})
    read_with_longmem(coupled=False).save_pretrained(tmp_path)
    other = Backbone("tiny-llama", *build_tiny("tiny-llama", seed=1))
    other.note_loaded()
    with pytest.warns(UserWarning, match="was trained for other copies of these weights: weights: "):
        load_method(other, tmp_path)
    other.view.layers[0].self_attn.k_proj.weight[3, 4] += 1
    with pytest.raises(LtmError, match="was trained for tiny-llama: weights: .*load that backbone, or train"):
        load_method(other, tmp_path)
