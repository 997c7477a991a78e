// layer_norm_fold: merge a layer norm's gain and offset into the linear layer behind it, and part their gradients.
//
//   W (gain * x + offset) + b = W' x + b':      W'[j][f] = W[j][f] gain[f],   b'[j] = b[j] + sum_f W[j][f] offset[f]
//
// BACKWARD, from dW' and db' of one slab of gradients, in place:
//
//   dW[j][f] = dW'[j][f] gain[f] + db'[j] offset[f],   db = db'
//   dgain[f] = sum_j W[j][f] dW'[j][f],   doffset[f] = sum_j W[j][f] db'[j]
//
//   linear  f32  [L][H F + H + 2 F]       weight [H][F], bias [H], gain [F], offset [F]
//   folded  f32  [L][H F + H]             weight and bias; BACKWARD: gradients like linear, slabs `slab` numbers apart
//
// Forward: one workgroup per j and layer. BACKWARD: one per 16 f, slab and layer, 16 lanes wide and WG / 16 rows high.
// So the network's first product needs no gradient of its input.
#import reduce

const WG: u32 = 256u;         // @param lanes per workgroup, a multiple of 16
const FEATURES: u32 = 256u;   // @param F
const HIDDEN: u32 = 512u;     // @param H
const BACKWARD: bool = false; // @param
const BIAS: u32 = HIDDEN * FEATURES;
const GAIN: u32 = BIAS + HIDDEN;
const OFFSET: u32 = GAIN + FEATURES;
const LINEAR: u32 = OFFSET + FEATURES;

struct Params {
    slab: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> linear: array<f32>;
@group(0) @binding(2) var<storage, read_write> folded: array<f32>;

var<workgroup> sh_part: array<vec2f, WG>;

fn fold(j: u32, layer: u32, lane: u32) {
    let own = layer * LINEAR;
    let to = layer * GAIN;
    var sum = 0.0;
    for (var f = lane; f < FEATURES; f += WG) {
        let weight = linear[own + j * FEATURES + f];
        sum += weight * linear[own + OFFSET + f];
        folded[to + j * FEATURES + f] = weight * linear[own + GAIN + f];
    }
    let offset = workgroup_sum(sum, lane);
    if lane == 0u { folded[to + BIAS + j] = linear[own + BIAS + j] + offset; }
}

fn unfold(f: u32, slab: u32, layer: u32, lane: u32) {
    let own = layer * LINEAR;
    let at = slab * params.slab + own;
    var part = vec2f(); // of the gradients of gain and offset
    if f < FEATURES {
        let gain = linear[own + GAIN + f];
        let offset = linear[own + OFFSET + f];
        for (var j = lane / 16u; j < HIDDEN; j += WG / 16u) {
            let d_weight = folded[at + j * FEATURES + f];
            let d_bias = folded[at + BIAS + j];
            part += linear[own + j * FEATURES + f] * vec2f(d_weight, d_bias);
            folded[at + j * FEATURES + f] = d_weight * gain + d_bias * offset;
        }
    }
    sh_part[lane] = part;
    workgroupBarrier();
    if lane < 16u && f < FEATURES {
        var sum = vec2f();
        for (var row = 0u; row < WG / 16u; row++) { sum += sh_part[16u * row + lane]; }
        folded[at + GAIN + f] = sum.x;
        folded[at + OFFSET + f] = sum.y;
    }
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) wg: vec3u, @builtin(local_invocation_index) lane: u32) {
    if BACKWARD { unfold(16u * wg.x + lane % 16u, wg.y, wg.z, lane); } else { fold(wg.x, wg.z, lane); }
}
