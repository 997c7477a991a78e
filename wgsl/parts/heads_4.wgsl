// Four query heads side by side: a lane's numbers of the heads that share its key/value head.
alias Heads = vec4f;
const HEADS: u32 = 4u;

fn heads_of(x: vec4f) -> Heads {
    return x;
}

fn heads_all(x: Heads) -> vec4f {
    return x;
}
