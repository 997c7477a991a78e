// For a CPU, whose lanes read one after the other: what all lanes need alike, four of them read a column each of, and
// tell the others. Lanes of a subgroup are consecutive, and there are at least four of them.

/// `own` is column `lane & 3`.
fn told(own: vec4f) -> mat4x4f {
    return mat4x4f(subgroupBroadcast(own, 0u), subgroupBroadcast(own, 1u), subgroupBroadcast(own, 2u),
        subgroupBroadcast(own, 3u));
}
