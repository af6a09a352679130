"""Our retrieval, fusion and SideNet beside those of the released LongMem code, on the same tensors.

    git clone https://github.com/Victorwz/LongMem && python benchmarks/measurements/parity_longmem.py LongMem

The released code needs fairseq, CUDA and its own backbone as a whole; its functions do not. Compared are the chunks
that are found (External_Memory), fused attention (joint_multi_head_attention_forward), and the SideNet's pass over
three segments, each scored and then remembered (extract_features_scriptable), with the layers of a tiny GPT-2 (no
rotary embedding, which the released code does not know) and the released memory and fusion in them.

The released backbone gives its last hidden state after its final norm, so that the residual of the SideNet's last layer
is a difference between a normalised state and one that is not; ours is taken before the norm, like the others, so that
residuals telescope. The pass is compared both ways. Needs the extra faiss. Prints what was compared and writes
tests/methods/attention/longmem_released.json, which tests/methods/attention/test_longmem.py holds ours to wherever the
checkout is not at hand.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from parity_em_llm import commit_of
from torch import Tensor
from torch.nn.functional import linear

from ltm.attention import View, attach, attend, merge_gate
from ltm.backbone import load_backbone
from ltm.bank import Bank, BankConfig
from ltm.methods.attention.longmem import LongMem, LongMemConfig
from ltm.methods.attention.memory_reader import KeyValueTap

FIXTURES = Path(__file__).parents[2] / "tests" / "methods" / "attention" / "longmem_released.json"
HEADS, HEAD_DIM, CHUNK, RETRIEVED = 4, 16, 4, 64
TOKENS, QUERIES = 4096, 512
PARTS = {
    "memory": "modules/dynamic_memory_with_chunk.py",
    "attention": "modules/joint_multihead_attention_sum.py",
    "decoder": "models/sidenet/transformer_decoder_sidenet.py",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkout", type=Path, help="directory of the released code")
    checkout = parser.parse_args().checkout
    released = Released(checkout)
    same, asked = retrieval(released)
    print(f"retrieval: {same:,} of {asked:,} chunks the same")
    print(f"fused attention: off by {fusion(released):.1e}")
    before, after = (sidenet(released, after_norm) for after_norm in (False, True))
    ours = own_logits(method(), segments())
    sizes = [float((ours - theirs).abs().max()) for theirs in (before, after)]
    print(f"SideNet, last residual before the final norm (ours): off by {sizes[0]:.1e} of {ours.abs().max():.1f}")
    print(f"SideNet, last residual after the final norm (as released): off by {sizes[1]:.1e}")
    last = {"before": before[-1, -1, :8].tolist(), "after": after[-1, -1, :8].tolist()}
    source = {"repository": "github.com/Victorwz/LongMem", "commit": commit_of(checkout)}
    facts = {"source": source, "made_by": "benchmarks/measurements/parity_longmem.py", "logits_of_the_last_token": last}
    FIXTURES.write_text(json.dumps(facts) + "\n")
    print(f"wrote {FIXTURES.name}")


class Released:
    """The parts of the released code that run by themselves, loaded past fairseq, of which they use next to nothing."""

    def __init__(self, checkout: Path):
        missing = [part for part in PARTS.values() if not (checkout / "fairseq/fairseq" / part).is_file()]
        if missing:
            raise SystemExit(f"{checkout} is no checkout of LongMem: fairseq/fairseq/{missing[0]} is missing")
        for name in ("fairseq", *(f"fairseq.{part}" for part in FAIRSEQ)):
            sys.modules[name] = Stub(name)
        loaded = {name: self._load(name, checkout / "fairseq/fairseq" / path) for name, path in PARTS.items()}
        self.memory: Any = loaded["memory"].External_Memory
        self.fuse: Any = loaded["attention"].JointMultiheadAttentionWeightedSum.joint_multi_head_attention_forward
        self.run: Any = loaded["decoder"].TransformerDecoderSideNetBase.extract_features_scriptable

    @staticmethod
    def _load(name: str, path: Path) -> ModuleType:
        spec = importlib.util.spec_from_file_location(f"released_{name}", path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    def new_memory(self, memory_size: int, retrieved: int) -> Any:
        """The branch for CPUs makes buffers of a shape that it cannot write to: they are those of the other branch."""
        decoder = SimpleNamespace(embed_dim=HEADS * HEAD_DIM, attention_heads=HEADS)
        memory = self.memory(
            SimpleNamespace(
                decoder=decoder,
                use_gpu_to_search=False,
                k=retrieved,
                layer_reduction_factor=2,
                memory_size=memory_size,
                chunk_size=CHUNK,
            )
        )
        for name in ("keys", "vals"):
            setattr(memory, name, [torch.zeros(memory_size // CHUNK, CHUNK, HEAD_DIM) for _ in range(HEADS)])
        return memory


FAIRSEQ = (
    *("utils", "distributed", "models", "models.sidenet", "models.transformer", "modules", "checkpoint_utils"),
    *("modules.dynamic_memory_with_chunk", "modules.checkpoint_activations", "modules.quant_noise"),
    *("modules.fairseq_dropout", "incremental_decoding_utils"),
)


class Stub(ModuleType):
    """A module of fairseq that is imported from and not used: any name is a class that hands its argument back."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (torch.nn.Module,), {"__new__": _handed_back})


def _handed_back(cls: Any, *given: Any, **options: Any) -> Any:
    return given[0] if given else object.__new__(cls)


def random_states(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def retrieval(released: Released) -> tuple[int, int]:
    """How many of the chunks found are the same, and how many were asked for, over heads and queries."""
    keys, values = (random_states(seed, 1, HEADS, TOKENS, HEAD_DIM) for seed in (0, 1))
    queries = random_states(2, 1, HEADS, QUERIES, HEAD_DIM)
    memory = released.new_memory(2 * TOKENS, RETRIEVED)
    memory.add_index({"k": _flat(keys), "v": _flat(values)})
    found = memory.retrieve(_flat(queries).transpose(0, 1))["knn_index"]
    theirs = torch.stack([torch.as_tensor(slots) for slots in found])
    bank = Bank(BankConfig(CHUNK, None), num_rows=1, num_kv_heads=HEADS, head_dim=HEAD_DIM)
    bank.write(keys, values, torch.zeros(1, TOKENS, dtype=torch.long))
    ours = bank.search(queries, RETRIEVED // CHUNK).slots[0]  # [heads, queries, chunks]
    return int((ours == theirs).sum()), ours.numel()


def fusion(released: Released) -> float:
    """Largest difference of the output of one call over 32 tokens and 64 remembered ones each."""
    tokens, width = 32, HEADS * HEAD_DIM
    hidden, gate = random_states(3, tokens, 1, width), random_states(4, HEADS)
    weights = [random_states(5 + number, width, width) / width**0.5 for number in range(4)]
    found = {name: random_states(seed, HEADS, tokens, RETRIEVED, HEAD_DIM) for name, seed in (("k", 9), ("v", 10))}
    theirs = fused(released, hidden, weights, [None] * 4, gate, found)[:, 0]
    query, keys, values = (_heads(linear(hidden, weight)) for weight in weights[:3])
    local = attend(query, keys, values, _causal(tokens), HEAD_DIM**-0.5).output
    view = View(found["k"][None], found["v"][None])
    memory = view.partial(query, query, HEAD_DIM**-0.5, None)
    ours = merge_gate(local, memory, torch.sigmoid(-gate))  # the released sigmoid is on the memory side
    return float((linear(ours[0].transpose(0, 1).flatten(1), weights[3]) - theirs).abs().max())


def fused(
    released: Released,
    hidden: Tensor,
    weights: list[Tensor],
    biases: list[Tensor | None],
    gate: Tensor,
    found: dict[str, Tensor],
) -> Tensor:
    """The released fusion: hidden [tokens, 1, width]; weights and biases of query, key, value and output; no ALiBi."""
    tokens, width = hidden.shape[0], hidden.shape[-1]
    own = SimpleNamespace(
        num_heads=HEADS, scaling=HEAD_DIM**-0.5, memory_bias=gate, dropout_module=lambda shares: shares
    )
    query, key, value, out = weights
    output, _ = released.fuse(
        own, hidden, hidden, hidden, width, HEADS, torch.empty(0), tuple(biases[:3]), None, None, False, 0.0,
        out, biases[3], training=False, need_weights=False, attn_mask=_future(tokens), use_separate_proj_weight=True,
        q_proj_weight=query, k_proj_weight=key, v_proj_weight=value,
        position_encoding=torch.zeros(HEADS, 1, tokens), long_context_retrieval=found,
    )  # fmt: skip
    return output


def method() -> LongMem:
    """Ours, on a tiny GPT-2, as the released code has it: copies of the last layers, a gate, no pointer."""
    config = LongMemConfig(
        reduction_factor=2,
        memory_layer=3,
        copied_layer="last",
        chunk_size=CHUNK,
        retrieved_tokens=RETRIEVED // 4,
        segment_size=32,
        start="paper",
        pointer=False,
    )
    backbone = load_backbone("tiny-gpt2", dtype="float32")
    _redraw(backbone.model)
    made = LongMem(backbone, config).eval()
    assert made.sidenet.memory_gate is not None
    made.sidenet.memory_gate.data = torch.linspace(-2, 2, HEADS)
    return made


@torch.no_grad()
def _redraw(model: torch.nn.Module) -> None:
    """Weights by seed alone: how transformers draws them may change."""
    random = torch.Generator().manual_seed(0)
    for name, parameter in sorted(model.named_parameters()):
        drawn = torch.randn(parameter.shape, generator=random)
        parameter.copy_(drawn * 0.1 + ("ln_" in name and name.endswith("weight")))


def segments() -> Tensor:
    return torch.randint(5, 90, (1, 96), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def own_logits(made: LongMem, ids: Tensor) -> Tensor:
    made.reset()
    return made(ids, remember=True).logits


@torch.no_grad()
def sidenet(released: Released, after_norm: bool) -> Tensor:
    """Logits [1, tokens, vocab] of the released pass over segments, with our layers' weights; after_norm: the last
    hidden state as the released backbone gives it."""
    made = method()
    view, side = made.backbone.view, made.sidenet
    layers = [_plain_layer(layer) for layer in side.layers]
    layers[side.memory_layer] = _memory_layer(released, side.layers[side.memory_layer], side.memory_gate)
    decoder = SimpleNamespace(
        num_layers=len(layers),
        pretrained_model=_Backbone(made, after_norm),
        cross_self_attention=False,
        padding_idx=-1,
        layers=layers,
        buffered_future_mask=lambda states: _future(states.shape[0]),
        layer_reduction_factor=2,
        external_memory=released.new_memory(4096, RETRIEVED // 4),
        retrieval_layer_index=made.memory_layer,
        layer_norm=side.norm,
        project_out_dim=None,
    )
    outputs = [released.run(decoder, segment, None)[0] for segment in segments().split(32, dim=1)]
    return view.logits(torch.cat(outputs, dim=1))


class _Backbone:
    """What the released pass asks of its backbone, of ours."""

    def __init__(self, made: LongMem, after_norm: bool):
        self.made, self.after_norm = made, after_norm

    def eval(self) -> None:
        pass

    def __call__(self, ids: Tensor, return_all_hiddens: bool) -> tuple[None, list[Tensor], dict[str, Tensor], Any]:
        view, tap, states = self.made.backbone.view, KeyValueTap(self.made.memory_layer), list[Tensor]()
        hooks = [layer.register_forward_pre_hook(lambda _, given: states.append(given[0])) for layer in view.layers]
        assert view.final_norm is not None
        hooks.append(
            view.final_norm.register_forward_hook(
                lambda _, given, out: states.append(out if self.after_norm else given[0])
            )
        )
        with attach(view, tap):
            view.model(ids, use_cache=False)
        for hook in hooks:
            hook.remove()
        assert tap.keys is not None and tap.values is not None
        return None, states, {"k": _flat(tap.keys), "v": _flat(tap.values)}, [torch.zeros(HEADS, 1, ids.shape[1])]


def _plain_layer(layer: Any) -> Callable[..., Any]:
    def run(states: Tensor, *_: Any, residual: Tensor, **options: Any) -> tuple[Tensor, None, None]:
        output = layer(states.transpose(0, 1))
        output = output[0] if isinstance(output, tuple) else output
        return output.transpose(0, 1) + residual, None, None

    return run


def _memory_layer(released: Released, layer: Any, gate: Any) -> Callable[..., Any]:
    """A GPT-2 layer whose attention is the released one, with its memory."""
    width = HEADS * HEAD_DIM
    weights = [*layer.attn.c_attn.weight.T.split(width), layer.attn.c_proj.weight.T]
    biases = [*layer.attn.c_attn.bias.split(width), layer.attn.c_proj.bias]

    def run(states: Tensor, *_: Any, residual: Tensor, external_memory: Any, **options: Any) -> tuple[Any, None, None]:
        if external_memory.dstore_idx == 0:
            return _plain_layer(layer)(states, residual=residual)
        normed = layer.ln_1(states)
        found = external_memory.retrieve(linear(normed, weights[0], biases[0]))["tgt_index"]
        attended = states + fused(released, normed, weights, biases, -gate, found)
        return attended + layer.mlp(layer.ln_2(attended)) + residual, None, None

    return run


def _flat(states: Tensor) -> Tensor:
    """[batch, heads, tokens, head_dim] -> [batch, tokens, heads * head_dim]."""
    return states.transpose(1, 2).flatten(2)


def _heads(states: Tensor) -> Tensor:
    """[tokens, 1, heads * head_dim] -> [1, heads, tokens, head_dim]."""
    return states.unflatten(-1, (HEADS, HEAD_DIM)).permute(1, 2, 0, 3)


def _causal(tokens: int) -> Tensor:
    return torch.ones(tokens, tokens).tril().bool()[None, None]


def _future(tokens: int) -> Tensor:
    return torch.full((tokens, tokens), float("-inf")).triu(1)


if __name__ == "__main__":
    main()
