// Four pairs of a word that lanes read alike: by each lane, as a GPU does at no cost.

fn table_alike(at: u32, lane: u32) -> vec4u {
    return table[at];
}
