// Sums and maxima over a workgroup of WG lanes (a power of two). Call from uniform flow only.
// Defines F32_LOWEST, the empty maximum: naga refuses an infinite constant.
const F32_LOWEST: f32 = -3.4028234663852886e38;

var<workgroup> sh_reduce: array<vec4f, WG>;

fn workgroup_sum4(value: vec4f, lane: u32) -> vec4f {
    workgroupBarrier(); // the previous call may still be reading
    sh_reduce[lane] = value;
    for (var stride = WG / 2u; stride > 0u; stride >>= 1u) {
        workgroupBarrier();
        if lane < stride { sh_reduce[lane] += sh_reduce[lane + stride]; }
    }
    workgroupBarrier();
    return sh_reduce[0];
}

fn workgroup_sum(value: f32, lane: u32) -> f32 {
    return workgroup_sum4(vec4f(value, 0.0, 0.0, 0.0), lane).x;
}

fn workgroup_max(value: f32, lane: u32) -> f32 {
    workgroupBarrier();
    sh_reduce[lane].x = value;
    for (var stride = WG / 2u; stride > 0u; stride >>= 1u) {
        workgroupBarrier();
        if lane < stride { sh_reduce[lane].x = max(sh_reduce[lane].x, sh_reduce[lane + stride].x); }
    }
    workgroupBarrier();
    return sh_reduce[0].x;
}
