// The functions of row_sums.wgsl on subgroups: lanes of a subgroup are consecutive, there are at least four of them,
// and WG is whole subgroups.
const ROW_PARTS: u32 = 2u * WG; // of eight rows in the smallest subgroups, of more in others

var<private> subgroup_lanes: u32;
/// [row][part], a part a subgroup, and room for four rows more
var<workgroup> sh_rows: array<f32, ROW_PARTS + WG>;

fn rows_begin() -> u32 {
    subgroup_lanes = subgroupAdd(1u);
    return (ROW_PARTS * subgroup_lanes / WG) & ~7u;
}

/// Lanes that differ in a bit swap halves of what they hold, until each is left with one row.
fn rows_note(row: u32, part: vec4f, lane: u32) {
    let odd = (lane & 1u) != 0u;
    let upper = (lane & 2u) != 0u;
    let pair = select(part.xy, part.zw, odd) + subgroupShuffleXor(select(part.zw, part.xy, odd), 1u);
    var sum = select(pair.x, pair.y, upper) + subgroupShuffleXor(select(pair.y, pair.x, upper), 2u);
    if subgroup_lanes == 32u { // one branch where many GPUs are
        sum += subgroupShuffleXor(sum, 4u);
        sum += subgroupShuffleXor(sum, 8u);
        sum += subgroupShuffleXor(sum, 16u);
    } else {
        for (var apart = 4u; apart < subgroup_lanes; apart <<= 1u) { sum += subgroupShuffleXor(sum, apart); }
    }
    let mine = 2u * (lane & 1u) + ((lane >> 1u) & 1u);
    if lane % subgroup_lanes < 4u { sh_rows[(row + mine) * (WG / subgroup_lanes) + lane / subgroup_lanes] = sum; }
}

fn rows_sum(row: u32) -> f32 {
    let parts = WG / subgroup_lanes;
    var sum = 0.0;
    for (var i = 0u; i < parts; i++) { sum += sh_rows[row * parts + i]; }
    return sum;
}
