"""The frozen backbone as a second expert: a running Bayes mixture of its words and the SideNet's (ours).

    p(v) = (1 - a) p_side(v) + a p_backbone(v),    a = sum_k w_k SHARES_k
    w_k  is proportional to  w_k^REMEMBERED ((1 - SHARES_k) p_side(x) + SHARES_k p_backbone(x))    for each token x

Two networks that err differently are better together (Xu et al., 2023, arXiv:2301.02828, see in it a part of kNN-LM's
gain), and where the SideNet is away from home the backbone is the better one. A share that is fixed costs where it is
at home; weights over a few fixed shares learn which it is from the last few hundred tokens of the text itself.
Only p_backbone / p_side of the token that came moves them: p_side itself is common to all.

Written out naively: tests/reference/mixture.py.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ltm.methods.loss import BLOCK_TOKENS, log_partition

SHARES = (0.02, 0.1, 0.25, 0.5)
"""What the backbone may have of each word's probability; all start equally likely."""


REMEMBERED = 0.997
"""Of the evidence of a token, what is left at the next: a text changes. Chosen on validation documents (docs/log)."""


class Evidence(NamedTuple):
    """What a stream carries of each row: log_weights [batch, len(SHARES)], how far each share is believed; log_ratio
    [batch, vocab], log p_backbone - log p_side of whatever comes next (zero: nothing was predicted yet)."""

    log_weights: Tensor
    log_ratio: Tensor

    @classmethod
    def none(cls, batch: int, vocab: int, like: Tensor) -> Evidence:
        """Of a stream that begins, in the dtype and on the device of `like`."""
        return cls(like.new_zeros(batch, len(SHARES)).log_softmax(dim=-1), like.new_zeros(batch, vocab))


def backbone_shares(log_ratios: Tensor, fresh: Tensor, log_weights: Tensor) -> tuple[Tensor, Tensor]:
    """The backbone's share of what comes after each token, [batch, tokens], and the weights in the end.

    log_ratios [batch, tokens]: log p_backbone - log p_side of the tokens that came, each given those before it; fresh:
    bool of the same shape, False = tells nothing. log_weights [batch, len(SHARES)]: before the first of them.

    >>> better = torch.full((1, 50), 0.5)  # the backbone, by far
    >>> shares, _ = backbone_shares(better, torch.ones(1, 50, dtype=torch.bool), torch.zeros(1, 4))
    >>> 0.2 < float(shares[0, 0]) < float(shares[0, -1]) < 0.5
    True
    """
    fixed = log_ratios.new_tensor(SHARES)
    # of (1 - share) + share * ratio, no overflow where one of them is sure and wrong
    gains = torch.logaddexp((1 - fixed).log(), fixed.log() + log_ratios[..., None])  # [batch, tokens, shares]
    believed = []
    for gain, counts in zip(gains.unbind(dim=1), fresh[..., None].unbind(dim=1), strict=True):
        log_weights = torch.where(counts, REMEMBERED * log_weights + gain, log_weights)
        believed.append(log_weights)
    weights = torch.stack(believed, dim=1).log_softmax(dim=-1)
    return (weights.exp() * fixed).sum(dim=-1), weights[:, -1]


def mix_with_backbone(
    side: Tensor, backbone: Tensor, ids: Tensor, fresh: Tensor, before: Evidence | None
) -> tuple[Tensor, Tensor, Evidence]:
    """Logits of the mixture [batch, tokens, vocab], up to a constant a token; the backbone's share of each, [batch,
    tokens]; and the evidence afterwards.

    side, backbone: logits [batch, tokens, vocab] after each of these tokens; ids: int64 [batch, tokens]; fresh: bool
    [batch, tokens], tokens that came now: False = padding, or one that was weighed before. No gradient flows through
    the shares, nor into the backbone.
    """
    precise = torch.promote_types(side.dtype, torch.float32)
    backbone = backbone.detach()
    own, other = log_partition(side.detach()), log_partition(backbone)  # [batch, tokens]
    offset = own - other  # log p_backbone - log p_side = backbone - side + offset
    if before is None:
        before = Evidence.none(len(ids), side.shape[-1], own)
    last = _last_fresh(fresh)
    ratios = _log_ratios(side.detach(), backbone, offset, ids, last, before.log_ratio)
    shares, log_weights = backbone_shares(ratios, fresh, before.log_weights.to(offset))
    rows, end = torch.arange(len(ids), device=ids.device), last[:, -1].clamp(min=0)
    coming = (backbone[rows, end] - side[rows, end].detach()).to(precise) + offset[rows, end, None]
    log_ratio = torch.where(last[:, -1:] >= 0, coming, before.log_ratio.to(coming))
    return _mixed(side, backbone, offset, shares), shares, Evidence(log_weights, log_ratio)


def _last_fresh(fresh: Tensor) -> Tensor:
    """The column of the last fresh token up to each column, itself included; -1 where there is none. [batch, tokens]"""
    columns = torch.arange(fresh.shape[1], device=fresh.device)
    return torch.where(fresh, columns, -1).cummax(dim=1).values


def _log_ratios(side: Tensor, backbone: Tensor, offset: Tensor, ids: Tensor, last: Tensor, coming: Tensor) -> Tensor:
    """log p_backbone - log p_side of each fresh token, as the fresh token before it predicted it (of others, some
    number); coming [batch, vocab]: the same for the first one. [batch, tokens]"""
    predicted_at = torch.cat((torch.full_like(last[:, :1], -1), last[:, :-1]), dim=1)
    rows, at = torch.arange(len(ids), device=ids.device)[:, None], predicted_at.clamp(min=0)
    within = (backbone[rows, at, ids] - side[rows, at, ids]).to(offset) + offset[rows, at]
    return torch.where(predicted_at >= 0, within, coming.to(offset).gather(1, ids))


def _mixed(side: Tensor, backbone: Tensor, offset: Tensor, shares: Tensor) -> Tensor:
    """log((1 - a) p_side + a p_backbone) up to a constant, in blocks of tokens that fit a cache."""
    keep, give = (1 - shares).log()[..., None], (shares.log() + offset)[..., None]
    tensors = (side, backbone, keep, give)
    blocks = zip(*(tensor.split(BLOCK_TOKENS, dim=1) for tensor in tensors), strict=True)
    mixed = [torch.logaddexp(own + stays, other + gives).to(own.dtype) for own, other, stays, gives in blocks]
    return mixed[0] if len(mixed) == 1 else torch.cat(mixed, dim=1)
