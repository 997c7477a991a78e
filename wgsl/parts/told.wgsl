// For a CPU, whose lanes read one after the other: what all lanes need alike, eight of them read a column each of, and
// tell the others. Lanes of a subgroup are consecutive; it has eight or sixteen (Gpu.lanesTell).

/// Eight columns.
struct Told {
    low: mat4x4f,
    high: mat4x4f,
}

/// `own` is column `lane & 7`.
fn told(own: vec4f) -> Told {
    return Told(
        mat4x4f(subgroupBroadcast(own, 0u), subgroupBroadcast(own, 1u), subgroupBroadcast(own, 2u),
            subgroupBroadcast(own, 3u)),
        mat4x4f(subgroupBroadcast(own, 4u), subgroupBroadcast(own, 5u), subgroupBroadcast(own, 6u),
            subgroupBroadcast(own, 7u)),
    );
}
