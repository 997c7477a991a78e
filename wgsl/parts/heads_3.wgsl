// Three query heads side by side: a lane's numbers of the heads that share its key/value head.
alias Heads = vec3f;
const HEADS: u32 = 3u;

fn heads_of(x: vec4f) -> Heads {
    return x.xyz;
}

fn heads_all(x: Heads) -> vec4f {
    return vec4f(x, 0.0);
}
