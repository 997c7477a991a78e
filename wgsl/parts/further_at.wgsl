// Where further codes lie, which tokens have that a codec's first stages miss by too much.
//
//   more  u32  starts [K + 1]              first word of each head's codes, and the last's end
//              index [blocks][K][2]        which of a block's tokens have some; how many of the head's earlier tokens
//              codes [room / 32][MORE_BITS]   of each head by rank, and last the tokens' gains, four bits each
//                                             (src/core/pack.ts)
//
// The importing kernel declares MORE_BITS and the binding more: array<u32>.
#import gain

/// First word of the index of a block and head, of `heads`.
fn further_index(block: u32, head: u32, heads: u32) -> u32 {
    return heads + 1u + 2u * (block * heads + head);
}

/// First word of the block of a head's further codes that holds a rank.
fn further_block(head: u32, rank: u32) -> u32 {
    return more[head] + (rank >> 5u) * MORE_BITS;
}

/// What the further stages of the head's token of a rank are multiplied by.
fn further_gain(head: u32, rank: u32) -> f32 {
    let gains = more[further_block(head, rank) + MORE_BITS - 4u + ((rank >> 3u) & 3u)];
    return gain_of((gains >> (4u * (rank & 7u))) & 15u);
}
