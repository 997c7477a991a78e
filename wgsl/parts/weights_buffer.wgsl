// A matrix of weights in buffers, as src/core/weight_layout.ts has it. Every weights_* part declares what it binds, and
// these functions.

@group(0) @binding(1) var<storage, read> weights: array<vec4u>;
@group(0) @binding(2) var<storage, read> scales: array<u32>;

fn weight_words(i: u32) -> vec4u {
    return weights[i];
}

/// Scales 2 i and 2 i + 1.
fn scale_pair(i: u32) -> u32 {
    return scales[i];
}
