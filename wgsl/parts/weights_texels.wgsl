// A matrix of weights in texels, rows of 1024 of them: src/gpu/texels.ts.

@group(0) @binding(1) var weights: texture_storage_2d<rgba32uint, read>;
@group(0) @binding(2) var scales: texture_storage_2d<r32uint, read>;

fn weight_words(i: u32) -> vec4u {
    return textureLoad(weights, vec2u(i & 1023u, i >> 10u));
}

/// Scales 2 i and 2 i + 1.
fn scale_pair(i: u32) -> u32 {
    return textureLoad(scales, vec2u(i & 1023u, i >> 10u)).x;
}
