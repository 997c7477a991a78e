// code_tier: gives further codes to the tokens that a codec's first stages miss by too much, in order, while there is room.
//
//   missed      u32    [K][capacity]                 which tokens, a bit each (code_missed)
//   fields      vec4u  [FIELDS - 1]                  only the last number is read: 0 for a field of 12 bits, else 8
//   all         u32    [K][capacity][32][FIELDS]     codes of all stages, found together, and last the gain, of 4 bits
//   raw         u32    [K][capacity][32][FEW]        codes of the first stages; of a token with further codes, those of `all`
//   more        u32                                  starts, index and further codes (src/core/pack.ts), blocks from `block` on
//
// One workgroup per head, over 256 tokens at a time. Places of further codes may hold others, from before a rewind: they
// are cleared before the first is written.
const WG: u32 = 256u;
const FIELDS: u32 = 13u;    // @param codes of a token in all stages, and its gain
const FEW: u32 = 5u;        // @param codes of a token in the first stages
const MORE_BITS: u32 = 88u; // @param bits of a token's further codes and its gain

struct Params {
    tokens: u32,
    capacity: u32, // blocks of codes
    block: u32,
    held: u32,     // tokens of the block before it that count
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> missed: array<u32>;
@group(0) @binding(2) var<storage, read> fields: array<vec4u>;
@group(0) @binding(3) var<storage, read> all: array<u32>;
@group(0) @binding(4) var<storage, read_write> raw: array<u32>;
@group(0) @binding(5) var<storage, read_write> more: array<atomic<u32>>;

var<workgroup> sh_masks: array<atomic<u32>, 8>;

fn below(bit: u32) -> u32 {
    return (1u << bit) - 1u;
}

fn is_missed(head: u32, t: u32) -> bool {
    if t >= params.tokens { return false; }
    return ((missed[head * params.capacity + (t >> 5u)] >> (t & 31u)) & 1u) == 1u;
}

/// Bits of a field.
fn width(field: u32) -> u32 {
    if field == FIELDS - 1u { return 4u; }
    return select(8u, 12u, fields[field].w == 0u);
}

/// First word of the index of a block and head, of `heads`.
fn index_word(block: u32, head: u32, heads: u32) -> u32 {
    return heads + 1u + 2u * (block * heads + head);
}

/// First word of the block of a head's further codes that holds a rank.
fn further_block(head: u32, rank: u32) -> u32 {
    return atomicLoad(&more[head]) + (rank >> 5u) * MORE_BITS;
}

/// Clears the places of ranks `[first, last)`, at most WG, and of those after them in the last's block: a lane for each
/// word of a field, by sixteens.
fn clear(head: u32, first: u32, last: u32, lane: u32) {
    let rank = (first & ~31u) + 32u * (lane >> 4u);
    let word = lane & 15u;
    if rank >= last { return; }
    var at = further_block(head, rank) + word;
    for (var f = FEW; f < FIELDS; f++) {
        let bits = width(f);
        let kept = max(first, rank) - rank; // ranks of the block that stay
        if word < bits && kept * bits < 32u * word + 32u {
            atomicAnd(&more[at], below(max(kept * bits, 32u * word) - 32u * word));
        }
        at += bits;
    }
}

/// Writes token t's codes: the first to `raw`, the others and its gain to the place of its rank, which was cleared.
fn write_codes(head: u32, t: u32, rank: u32) {
    let token = head * params.capacity * 32u + t;
    for (var f = 0u; f < FEW; f++) { raw[token * FEW + f] = all[token * FIELDS + f]; }
    var block = further_block(head, rank);
    for (var f = FEW; f < FIELDS; f++) {
        let code = all[token * FIELDS + f];
        let bits = width(f);
        let bit = (rank & 31u) * bits;
        let at = block + (bit >> 5u);
        atomicOr(&more[at], code << (bit & 31u));
        if (bit & 31u) + bits > 32u { atomicOr(&more[at + 1u], code >> (32u - (bit & 31u))); }
        block += bits;
    }
}

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) wg: vec3u,
    @builtin(num_workgroups) grid: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let head = wg.x;
    let own = lane >> 5u;
    let room = (atomicLoad(&more[head + 1u]) - atomicLoad(&more[head])) / MORE_BITS * 32u;
    var count = 0u; // of the head's earlier tokens that have further codes
    if params.held > 0u {
        let at = index_word(params.block - 1u, head, grid.x);
        count = atomicLoad(&more[at + 1u]) + countOneBits(atomicLoad(&more[at]) & (0xffffffffu >> (32u - params.held)));
    }
    for (var tile = 0u; tile < params.tokens; tile += WG) {
        let t = tile + lane;
        if lane < 8u { atomicStore(&sh_masks[lane], 0u); }
        workgroupBarrier();
        let picked = is_missed(head, t);
        if picked { atomicOr(&sh_masks[own], 1u << (lane & 31u)); }
        workgroupBarrier();
        let before = count;
        var first = count; // of the lane's block
        for (var b = 0u; b < 8u; b++) {
            let tokens = countOneBits(atomicLoad(&sh_masks[b]));
            count += tokens;
            if b < own { first += tokens; }
        }
        count = min(count, room);
        first = min(first, room);
        let rank = first + countOneBits(atomicLoad(&sh_masks[own]) & below(lane & 31u));
        workgroupBarrier();
        if picked && rank >= room { atomicAnd(&sh_masks[own], ~(1u << (lane & 31u))); }
        clear(head, before, count, lane);
        storageBarrier();
        workgroupBarrier();
        if (lane & 31u) == 0u && t < params.tokens {
            let at = index_word(params.block + (t >> 5u), head, grid.x);
            atomicStore(&more[at], atomicLoad(&sh_masks[own]));
            atomicStore(&more[at + 1u], first);
        }
        if picked && rank < room { write_codes(head, t, rank); }
        workgroupBarrier(); // the masks are cleared next
    }
}
