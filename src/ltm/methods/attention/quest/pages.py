"""Quest's two steps for one layer: which pages a query needs, and attention over these alone."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from ltm.attention import LocalView
from ltm.attention.views import attend
from ltm.streams.pages import Columns, PagedLayer


def score_pages(query: Tensor, bounds: Tensor) -> Tensor:
    """Upper bounds of a query's inner product with any key of each page (Tang et al., 2024, section 3.3).

    query: [batch, heads, tokens, head_dim], with positions as the keys have them; bounds: [batch, kv_heads, pages,
    2 * head_dim] as in `PageBounds`, or [batch, kv_heads, tokens, pages, 2 * head_dim], own ones for every token.
    Returns [batch, heads, tokens, pages] in the bounds' dtype.

    >>> score_pages(torch.tensor([[[[1.0, -2.0]]]]), torch.tensor([[[[3.0, 5.0, -1.0, -4.0]]]]))  # 1 * 3 + -2 * 4
    tensor([[[[-5.]]]])
    """
    signed = torch.cat((query.clamp(min=0), (-query).clamp(min=0)), dim=-1).to(bounds.dtype)
    batch, heads, tokens, width = signed.shape
    kv_heads = bounds.shape[1]
    grouped = signed.view(batch, kv_heads, -1, tokens, width)
    if bounds.dim() == 5:
        return torch.einsum("bhgtd,bhtpd->bhgtp", grouped, bounds).reshape(batch, heads, tokens, -1)
    scores = torch.matmul(grouped.reshape(batch, kv_heads, -1, width), bounds.transpose(-1, -2))
    return scores.view(batch, heads, tokens, -1)


def bounds_of_own_page(keys: Tensor, columns: Columns, places: Tensor, page_size: int) -> Tensor:
    """Bounds of the page of each query's own token, over what stands there up to it.

    keys: [batch, kv_heads, columns, head_dim]; places: the tokens' number in the row, [batch, tokens].
    Returns [batch, kv_heads, tokens, 1, 2 * head_dim].
    """
    steps = torch.arange(page_size, device=keys.device)
    tokens = places[..., None] // page_size * page_size + steps  # [batch, tokens, page_size]
    seen = tokens <= places[..., None]
    where = columns.locate(torch.minimum(tokens, places[..., None]))
    own = gather_tokens(keys, where[:, None].expand(-1, keys.shape[1], -1, -1))
    own = own.to(torch.promote_types(keys.dtype, torch.float32))
    signed = torch.cat((own, -own), dim=-1).masked_fill(~seen[:, None, ..., None], torch.finfo(own.dtype).min)
    return signed.amax(dim=3, keepdim=True)


def choose_pages(scores: Tensor, own_page: Tensor, num_pages: int, keep_own: bool) -> tuple[Tensor, Tensor]:
    """The best pages of each query among those that have begun.

    scores: [batch, heads, tokens, pages]; own_page: the page of each query's token, [batch, tokens]; later ones do not
    count. keep_own: the own page is one of the chosen whatever its score. Returns pages int64 and whether there are so
    many, bool, both [batch, heads, tokens, num_pages or all pages].
    """
    own = own_page[:, None, :, None]
    number = torch.arange(scores.shape[-1], device=scores.device)
    scores = scores.masked_fill(number > own, float("-inf"))
    if keep_own:
        scores = scores.masked_fill(number == own, float("inf"))
    found = scores.topk(min(num_pages, scores.shape[-1]), dim=-1)
    return found.indices, ~torch.isneginf(found.values)


def page_mask(pages: Tensor, there: Tensor, columns: Columns, page_size: int) -> Tensor:
    """Which columns of the cache lie in chosen pages: bool [batch, heads, tokens, columns]. Padding lies in none."""
    number = int(columns.places.max()) // page_size + 1
    chosen = torch.zeros(*pages.shape[:-1], number, dtype=torch.bool, device=pages.device)
    chosen.scatter_(-1, pages.where(there, pages[..., :1]), True)  # the best page is always there
    if columns.unpadded:
        return chosen[..., None].expand(*chosen.shape, page_size).flatten(-2)[..., : columns.mask.shape[1]]
    page_of = (columns.places // page_size)[:, None, None].expand(*pages.shape[:-1], -1)
    return chosen.gather(-1, page_of) & columns.mask[:, None, None]


def attend_pages(
    local: LocalView, layer: PagedLayer, pages: Tensor, there: Tensor, columns: Columns, places: Tensor
) -> Tensor:
    """Attention of one query token a row over its chosen pages alone, which are copied and nothing else.

    pages and there: [batch, heads or kv_heads, 1, pages]; places: [batch, 1]. Returns [batch, heads, 1, head_dim].
    """
    size = layer.page_size
    tokens = pages[..., None] * size + torch.arange(size, device=pages.device)  # [batch, heads, 1, pages, size]
    seen = (there[..., None] & (tokens <= places[:, None, :, None, None])).flatten(3)
    assert layer.key_buffer is not None and layer.value_buffer is not None
    if columns.unpadded:
        keys, values = (gather_pages(buffer, pages, size) for buffer in (layer.key_buffer, layer.value_buffer))
    else:
        last = places[:, None, :, None, None].expand_as(tokens)
        where = columns.locate(torch.minimum(tokens, last).flatten(3))
        keys, values = (gather_tokens(buffer, where) for buffer in (layer.key_buffer, layer.value_buffer))
    return _attend_fetched(local, keys[:, :, 0], values[:, :, 0], seen)


def _attend_fetched(local: LocalView, keys: Tensor, values: Tensor, seen: Tensor) -> Tensor:
    """Attention of one query token a row, [batch, heads, 1, head_dim].

    keys, values: [batch, heads or kv_heads, slots, head_dim]; seen: bool [batch, heads or kv_heads, 1, slots].
    """
    batch, heads, _, width = local.query.shape
    if local.softcap is not None:
        seen = seen.repeat_interleave(heads // keys.shape[1], dim=1)
        return attend(local.query, keys, values, seen, local.scaling, local.softcap).output
    query = local.query.reshape(batch, keys.shape[1], -1, width)  # heads that share keys stand as tokens
    mask = None if bool(seen.all()) else seen
    output = scaled_dot_product_attention(query, keys, values, attn_mask=mask, scale=local.scaling)
    return output.view(batch, heads, 1, -1)


def gather_pages(buffer: Tensor, pages: Tensor, size: int) -> Tensor:
    """Tokens of pages [batch, heads, tokens, n] out of a buffer [batch, kv_heads, room, head_dim], in one copy.

    Returns [batch, heads, tokens, n * size, head_dim].
    """
    batch, kv_heads, room, width = buffer.shape
    first = _first_rows(pages, batch, kv_heads, room // size)
    found = buffer.view(-1, size * width).index_select(0, (first + pages).flatten())
    return found.view(*pages.shape[:3], -1, width)


def gather_tokens(buffer: Tensor, columns: Tensor) -> Tensor:
    """The same for columns [batch, heads, tokens, n]; returns [batch, heads, tokens, n, head_dim]."""
    batch, kv_heads, room, width = buffer.shape
    if not buffer.is_contiguous():
        kv = torch.arange(columns.shape[1], device=columns.device) // (columns.shape[1] // kv_heads)
        return buffer[torch.arange(batch, device=columns.device)[:, None, None, None], kv[:, None, None], columns]
    first = _first_rows(columns, batch, kv_heads, room)
    return buffer.view(-1, width).index_select(0, (first + columns).flatten()).view(*columns.shape, width)


def _first_rows(chosen: Tensor, batch: int, kv_heads: int, room: int) -> Tensor:
    """Where the keys of each batch row and head begin, in units of pages or tokens, [batch, heads, 1, 1]."""
    group = chosen.shape[1] // kv_heads
    heads = torch.arange(chosen.shape[1], device=chosen.device) // group
    rows = torch.arange(batch, device=chosen.device)[:, None] * kv_heads
    return ((rows + heads) * room)[..., None, None]
