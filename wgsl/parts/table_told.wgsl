// The function of table_shared.wgsl for a CPU, as told.wgsl has it: four lanes read a pair each. All lanes of a subgroup
// read the same word.

fn table_alike(at: u32, lane: u32) -> vec4u {
    let own = table[at][lane & 3u];
    return vec4u(subgroupBroadcast(own, 0u), subgroupBroadcast(own, 1u), subgroupBroadcast(own, 2u),
        subgroupBroadcast(own, 3u));
}
