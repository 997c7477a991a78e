// gumbel_bits_decode: values of packed bits: the sum of the codebook's rows whose bit is set, scaled.
//
//   out[t][f] = s[t] * scale[f] * sum_i bit_i E[i][f]
//
//   words     u32  [T][W]         32 bits a word, first bit lowest
//   scales    f16  [T]            s; in pairs, the even token low
//   codebook  f32  [32 W][F]      E
//   scale     f32  [F]
//   out       f32  [T][F]
//
// One workgroup per token, a lane per quad of f.

const WG: u32 = 64u;        // @param lanes per workgroup
const FEATURES: u32 = 256u; // @param F, a multiple of 4
const WORDS: u32 = 8u;      // @param W
const QUADS: u32 = FEATURES / 4u;

@group(0) @binding(0) var<storage, read> words: array<u32>;
@group(0) @binding(1) var<storage, read> scales: array<u32>;
@group(0) @binding(2) var<storage, read> codebook: array<vec4f>;
@group(0) @binding(3) var<storage, read> scale: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> out: array<vec4f>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) wg: vec3u, @builtin(local_invocation_index) lane: u32) {
    let token = wg.x;
    let s = unpack2x16float(scales[token / 2u])[token % 2u];
    for (var i = lane; i < QUADS; i += WG) {
        var sum = vec4f();
        for (var w = 0u; w < WORDS; w++) {
            var rest = words[token * WORDS + w];
            while rest != 0u {
                sum += codebook[(32u * w + countTrailingZeros(rest)) * QUADS + i];
                rest &= rest - 1u;
            }
        }
        out[token * QUADS + i] = s * scale[i] * sum;
    }
}
