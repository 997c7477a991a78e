// The function of table_shared.wgsl for a CPU, whose lanes read one after the other: four lanes read a pair each and tell
// the others. Lanes of a subgroup are consecutive, and there are at least four of them, which read the same word.

fn table_alike(at: u32, lane: u32) -> vec4u {
    let own = table[at][lane & 3u];
    return vec4u(subgroupBroadcast(own, 0u), subgroupBroadcast(own, 1u), subgroupBroadcast(own, 2u),
        subgroupBroadcast(own, 3u));
}
