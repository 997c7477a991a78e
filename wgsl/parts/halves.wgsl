// Numbers packed two to a word; what half precision cannot hold is clamped to its largest.
const F16_HIGHEST: f32 = 65504.0;

fn pack(x: vec4f) -> vec2u {
    let held = clamp(x, vec4f(-F16_HIGHEST), vec4f(F16_HIGHEST));
    return vec2u(pack2x16float(held.xy), pack2x16float(held.zw));
}
