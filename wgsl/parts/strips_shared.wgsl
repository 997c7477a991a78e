// What lanes of a rank read alike in attn_prefill: by each lane, as a GPU does at no cost.

fn staged_alike(at: u32, lane: u32) -> Strip {
    return sh_staged[at];
}

fn weights_alike(at: u32, lane: u32) -> Strip {
    return sh_weights[at];
}
