// Codes of the further stages that some tokens have (those that the codec's first STAGES miss by too much), eight at a
// time. They lie by rank, so a workgroup walks the ranks of its tokens, 8 * GROUPS at a time, and lists whose they are.
//
//   more  u32  index [blocks][K][2]                which of a block's tokens have some; how many of the head's earlier tokens
//              codes [K][room / 32][MORE_BITS]     from params.more_at on  (src/core/pack.ts)
//
// The importing kernel imports octet, declares WG, GROUPS (at most WG / 8), MORE_BITS and the binding more: array<u32>,
// and has more_at and room among its parameters. A block is partly of other tokens where it is cut by the ends of a
// workgroup's tokens, or by a rewind: their ranks lie outside.

/// Tokens by rank.
var<workgroup> sh_tokens: array<u32, 8u * GROUPS>;

/// Ranks, from the first to before the last, of a head's tokens `[begin, end)` that have further codes; `heads` there are.
fn further_ranks(begin: u32, end: u32, head: u32, heads: u32) -> vec2u {
    if begin >= end { return vec2u(); }
    let a = 2u * ((begin >> 5u) * heads + head);
    let b = 2u * (((end - 1u) >> 5u) * heads + head);
    let first = more[a + 1u] + countOneBits(more[a] & ((1u << (begin & 31u)) - 1u));
    let last = more[b + 1u] + countOneBits(more[b] & (0xffffffffu >> (31u - ((end - 1u) & 31u))));
    return vec2u(first, min(last, params.room));
}

/// Lists the tokens of ranks `rank` to `rank + 8 * GROUPS - 1`, as far as they are of tokens `[begin, end)`. Call from
/// uniform flow only.
fn further_list(begin: u32, end: u32, head: u32, heads: u32, rank: u32, lane: u32) {
    workgroupBarrier(); // the previous list may still be read
    for (var block = (begin >> 5u) + lane; 32u * block < end; block += WG) {
        let at = 2u * (block * heads + head);
        var mask = more[at];
        for (var i = more[at + 1u] - rank; mask != 0u; i++) { // wraps around for lower ranks
            if i < 8u * GROUPS { sh_tokens[i] = 32u * block + firstTrailingBit(mask); }
            mask &= mask - 1u;
        }
    }
    workgroupBarrier();
}

/// The sums of the further stages of the octet of ranks that begins with `rank`.
fn further_decode(head: u32, rank: u32, row: u32, quad: u32) -> Octet {
    let block = params.more_at + (head * (params.room >> 5u) + (rank >> 5u)) * MORE_BITS;
    return octet_decode(true, block, (rank >> 3u) & 3u, row, quad);
}
