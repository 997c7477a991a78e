// The functions of reduce.wgsl on subgroups: lanes of a subgroup are consecutive, and there are at least four of them.
const F32_LOWEST: f32 = -3.4028234663852886e38;

var<workgroup> sh_reduce: array<vec4f, (WG + 3u) / 4u>;

fn workgroup_sum4(value: vec4f, lane: u32) -> vec4f {
    let size = subgroupAdd(1u); // lanes present, so a workgroup below the subgroup size works too
    let part = subgroupAdd(value);
    if size >= WG { return part; }
    workgroupBarrier(); // the previous call may still be reading
    if lane % size == 0u { sh_reduce[lane / size] = part; }
    workgroupBarrier();
    var sum = vec4f(0.0);
    for (var i = 0u; i < WG / size; i++) { sum += sh_reduce[i]; }
    return sum;
}

fn workgroup_sum(value: f32, lane: u32) -> f32 {
    let size = subgroupAdd(1u);
    let part = subgroupAdd(value);
    if size >= WG { return part; }
    workgroupBarrier();
    if lane % size == 0u { sh_reduce[lane / size].x = part; }
    workgroupBarrier();
    var sum = 0.0;
    for (var i = 0u; i < WG / size; i++) { sum += sh_reduce[i].x; }
    return sum;
}

fn workgroup_max(value: f32, lane: u32) -> f32 {
    let size = subgroupAdd(1u);
    let part = subgroupMax(value);
    if size >= WG { return part; }
    workgroupBarrier();
    if lane % size == 0u { sh_reduce[lane / size].x = part; }
    workgroupBarrier();
    var most = F32_LOWEST;
    for (var i = 0u; i < WG / size; i++) { most = max(most, sh_reduce[i].x); }
    return most;
}
