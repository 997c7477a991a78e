// Sums over a workgroup of WG lanes, four rows at a time: lanes note their parts, and after a barrier anyone may add a
// row up. WG is a multiple of 4. Call from uniform flow only.
const ROW_LANES: u32 = 4u; // that make one part
const ROW_PARTS: u32 = 2u * WG; // of eight rows

var<workgroup> sh_lanes: array<vec4f, WG>;
/// [row][part], and room for four rows more
var<workgroup> sh_rows: array<f32, ROW_PARTS + WG>;

/// Call first: the rows that fit at once, a multiple of 8 and at least that; four more fit after these.
fn rows_begin() -> u32 {
    return (ROW_PARTS * ROW_LANES / WG) & ~7u;
}

/// Notes a lane's part of rows `row` to `row + 3`.
fn rows_note(row: u32, part: vec4f, lane: u32) {
    workgroupBarrier(); // the previous call may still be reading
    sh_lanes[lane] = part;
    workgroupBarrier();
    let mine = lane & 3u;
    let quad = lane - mine;
    sh_rows[(row + mine) * (WG / ROW_LANES) + quad / ROW_LANES] = sh_lanes[quad][mine] + sh_lanes[quad + 1u][mine] +
        sh_lanes[quad + 2u][mine] + sh_lanes[quad + 3u][mine];
}

/// The sum of a row whose parts were noted before a barrier.
fn rows_sum(row: u32) -> f32 {
    var sum = 0.0;
    for (var i = 0u; i < WG / ROW_LANES; i++) { sum += sh_rows[row * (WG / ROW_LANES) + i]; }
    return sum;
}
