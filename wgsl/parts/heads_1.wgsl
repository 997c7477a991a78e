// One query head side by side: a lane's numbers of the heads that share its key/value head.
alias Heads = f32;
const HEADS: u32 = 1u;

fn heads_of(x: vec4f) -> Heads {
    return x.x;
}

fn heads_all(x: Heads) -> vec4f {
    return vec4f(x, 0.0, 0.0, 0.0);
}
