// Codes of the further stages that some tokens have (those that the codec's first STAGES miss by too much), eight at a
// time. They lie by rank, so a workgroup walks the ranks of its tokens, 8 * GROUPS at a time, and lists whose they are.
//
// The importing kernel imports octet, declares WG, GROUPS (at most WG / 8), MORE_BITS and the binding more: array<u32>. A
// block is partly of other tokens where it is cut by the ends of a workgroup's tokens, or by a rewind: their ranks lie
// outside.

#import further_at

/// Tokens by rank.
var<workgroup> sh_tokens: array<u32, 8u * GROUPS>;
var<workgroup> sh_head: u32;

/// The head with the `place`-th most room for further codes, of `heads`: workgroups of the heaviest heads begin first, and
/// those of light ones fill what processors are left at the end. Call from uniform flow only.
fn further_head(place: u32, heads: u32, lane: u32) -> u32 {
    for (var head = lane; head < heads; head += WG) {
        let own = more[head + 1u] - more[head];
        var before = 0u;
        for (var other = 0u; other < heads; other++) {
            let room = more[other + 1u] - more[other];
            before += select(0u, 1u, room > own || room == own && other < head);
        }
        if before == place { sh_head = head; }
    }
    return workgroupUniformLoad(&sh_head);
}

/// Ranks, from the first to before the last, of a head's tokens `[begin, end)` that have further codes; `heads` there are.
fn further_ranks(begin: u32, end: u32, head: u32, heads: u32) -> vec2u {
    if begin >= end { return vec2u(); }
    let a = further_index(begin >> 5u, head, heads);
    let b = further_index((end - 1u) >> 5u, head, heads);
    let first = more[a + 1u] + countOneBits(more[a] & ((1u << (begin & 31u)) - 1u));
    let last = more[b + 1u] + countOneBits(more[b] & (0xffffffffu >> (31u - ((end - 1u) & 31u))));
    let room = (more[head + 1u] - more[head]) / max(MORE_BITS, 1u) * 32u;
    return vec2u(first, min(last, room));
}

/// Lists the tokens of ranks `rank` to `rank + 8 * GROUPS - 1`, as far as they are of tokens `[begin, end)`. Call from
/// uniform flow only.
fn further_list(begin: u32, end: u32, head: u32, heads: u32, rank: u32, lane: u32) {
    workgroupBarrier(); // the previous list may still be read
    for (var block = (begin >> 5u) + lane; 32u * block < end; block += WG) {
        let at = further_index(block, head, heads);
        var mask = more[at];
        for (var i = more[at + 1u] - rank; mask != 0u; i++) { // wraps around for lower ranks
            if i < 8u * GROUPS { sh_tokens[i] = 32u * block + firstTrailingBit(mask); }
            mask &= mask - 1u;
        }
    }
    workgroupBarrier();
}

/// The sums of the further stages, before their gains, of the octet of ranks that begins with `rank`.
fn further_decode(head: u32, rank: u32, row: u32, quad: u32) -> Octet {
    return octet_decode(true, further_block(head, rank), (rank >> 3u) & 3u, row, quad);
}
