// sample: choose the next token from its logits.
//
//   y_i    = penalized_i + bias_i,  penalized_i = logit_i / r where it is above 0, logit_i * r elsewhere, for tokens seen
//   kept   = the topK largest y; of these the largest that hold topP of their mass, at least one, under
//            softmax(y / temperature); of these all with y - max y >= margin, margin = temperature * log(minP)
//   token  = argmax over kept of y_i - temperature * log(e_i),  e_i exponential deviates: a draw from
//            softmax(y / temperature) over kept (Gumbel-max); at temperature 0 the largest y. The lowest id wins ties
//   record = token, y_token - log(sum_i exp(y_i)): its log-probability before temperature and truncation
//
//   logits    f32    [V]
//   bias      f32    [V]           added where params.biased is 1, else not read
//   seen      u32    [V / 32]      bit i of the row: token i has occurred; PICK sets the chosen token's
//   partials  vec4f  [2][G]        of a workgroup's tokens: max y, sum exp(y - max), best draw, its id
//   sums      f32    [2][G][16]    of a workgroup's tokens: what a search pass's 16 candidates hold
//   state     vec4u  [16]          as known before each search pass: thresholds by count and by mass; as bits of f32, the
//                                  mass kept by count, max y
//   tokens    u32    [N]           the chosen id goes to params.index
//   record    u32    [2]
//
// SCAN, G workgroups: a lane does four tokens. NARROW, G workgroups: one of eight passes by count, then one of eight by
// mass; each settles four bits of the threshold, a key that orders like its f32, so that it is exact: equal logits stay
// or go together. Every workgroup settles the pass before by itself, from the same sums in the same order. Then SCAN
// again with params.truncated. PICK, one workgroup, folds the partials. What is not a number at all is undefined;
// infinities count as the largest and lowest f32, so if every token is banned token 0 comes out.
#import reduce
#import random

const WG: u32 = 256u;    // @param lanes per workgroup, a multiple of 16
const STAGE: u32 = 0u;   // @param
const SCAN: u32 = 0u;
const NARROW: u32 = 1u;
const PICK: u32 = 2u;
const F32_MOST: f32 = 3.4028234663852886e38;

struct Params {
    vocab: u32,       // V
    groups: u32,      // G
    biased: u32,
    penalty: f32,     // r
    temperature: f32,
    top_k: f32,
    top_p: f32,
    margin: f32,
    truncated: u32,
    counted: u32,     // search passes by count: 0 or 8
    pass_index: u32,  // of NARROW; of the second SCAN, how many there were
    seed: u32,
    step: u32,
    index: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> logits: array<vec4f>;
@group(0) @binding(2) var<storage, read> bias: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> seen: array<u32>;
@group(0) @binding(4) var<storage, read_write> partials: array<vec4f>;
@group(0) @binding(5) var<storage, read_write> sums: array<f32>;
@group(0) @binding(6) var<storage, read_write> state: array<vec4u>;
@group(0) @binding(7) var<storage, read_write> tokens: array<u32>;
@group(0) @binding(8) var<storage, read_write> record: array<u32>;

var<workgroup> sh_fold: array<f32, WG>;
var<workgroup> sh_weights: array<vec4f, WG>;
var<workgroup> sh_digits: array<vec4u, WG>;

fn ids_of(quad: u32) -> vec4u {
    return 4u * quad + vec4u(0u, 1u, 2u, 3u);
}

/// y of four tokens; those past the vocabulary have the lowest.
fn processed(quad: u32) -> vec4f {
    let inside = ids_of(quad) < vec4u(params.vocab);
    if !inside.x { return vec4f(F32_LOWEST); }
    var y = logits[quad];
    if params.penalty != 1.0 {
        let bits = vec4u(seen[quad >> 3u] >> (4u * (quad & 7u))) & vec4u(1u, 2u, 4u, 8u);
        let penalized = select(y * params.penalty, y / params.penalty, y > vec4f());
        y = select(y, penalized, bits != vec4u());
    }
    if params.biased != 0u { y += bias[quad]; }
    return select(vec4f(F32_LOWEST), clamp(y, vec4f(F32_LOWEST), vec4f(F32_MOST)), inside);
}

/// Unsigned numbers in the order of y; both zeros are one.
fn keys_of(y: vec4f) -> vec4u {
    let bits = bitcast<vec4u>(y);
    let whole = select(bits, vec4u(), bits == vec4u(0x80000000u));
    return select(whole | vec4u(0x80000000u), ~whole, whole >= vec4u(0x80000000u));
}

/// -log(e) for exponential deviates e = -log(1 - u). u keeps its relative precision near 0, where winners come from.
fn gumbel(quad: u32) -> vec4f {
    let words = vec4f(random4(vec4u(quad, params.step, params.seed, 2u)));
    let u = min((words + 0.5) * 2.3283064365386963e-10, vec4f(0.99999994));
    let series = u + u * u * (0.5 + u * (0.33333333 + 0.25 * u)); // a GPU's log is only absolutely accurate near 1
    return -log(select(-log(1.0 - u), series, u < vec4f(0.015625)));
}

/// max y over the vocabulary, from the first SCAN.
fn most_of_all(lane: u32) -> f32 {
    var most = F32_LOWEST;
    for (var g = lane; g < params.groups; g += WG) { most = max(most, partials[g].x); }
    return workgroup_max(most, lane);
}

/// Sum over the parts of the workgroup of candidate `lane & 15`: a part is 16 lanes, one for each candidate.
fn fold(value: f32, lane: u32) -> f32 {
    workgroupBarrier(); // the previous call may still be reading
    sh_fold[lane] = value;
    workgroupBarrier();
    var sum = 0.0;
    for (var i = lane & 15u; i < WG; i += 16u) { sum += sh_fold[i]; }
    return sum;
}

/// A workgroup's sum for candidate `lane & 15`.
fn sum_of(first: u32, group: u32, lane: u32) -> f32 {
    return select(0.0, sums[(first + group) * 16u + (lane & 15u)], group < params.groups);
}

/// The thresholds as the passes before params.pass_index settle them.
fn settled(lane: u32) -> vec4u {
    if params.pass_index == 0u { return vec4u(0u, 0u, 0u, bitcast<u32>(most_of_all(lane))); }
    let last = params.pass_index - 1u;
    var found = state[last];
    let first = (last & 1u) * params.groups;
    var sum = 0.0;
    for (var g = lane >> 4u; g < params.groups; g += WG / 4u) { // four loads under way at once
        sum += (sum_of(first, g, lane) + sum_of(first, g + WG / 16u, lane)) +
            (sum_of(first, g + WG / 8u, lane) + sum_of(first, g + 3u * WG / 16u, lane));
    }
    let total = fold(sum, lane);
    workgroupBarrier();
    sh_fold[lane] = total;
    workgroupBarrier();
    var need = params.top_k;
    if last >= params.counted {
        if last == params.counted { found.z = bitcast<u32>(sh_fold[0]); }
        need = params.top_p * bitcast<f32>(found.z);
    }
    // Sums fall from candidate to candidate, and the first is what the passes before have reached.
    var digit = 0u;
    for (var j = 1u; j < 16u; j++) { digit += select(0u, 1u, sh_fold[j] >= need); }
    let bits = digit << (28u - 4u * (last & 7u));
    if last >= params.counted { found.y |= bits; } else { found.x |= bits; }
    return found;
}

fn narrow(group: u32, lane: u32) {
    let found = settled(lane);
    if group == 0u && lane == 0u { state[params.pass_index] = found; }
    let by_mass = params.pass_index >= params.counted;
    let quad = group * WG + lane;
    let y = processed(quad);
    let keys = keys_of(y);
    let least = select(found.x, found.y, by_mass);
    var kept = (ids_of(quad) < vec4u(params.vocab)) & (keys >= vec4u(least));
    var weights = vec4f(1.0);
    if by_mass {
        weights = exp((y - bitcast<f32>(found.w)) / params.temperature);
        kept = kept & (keys >= vec4u(found.x));
    }
    sh_weights[lane] = select(vec4f(), weights, kept);
    sh_digits[lane] = (keys - least) >> vec4u(28u - 4u * (params.pass_index & 7u));
    workgroupBarrier();
    // A lane has a candidate, and adds up its part's tokens at or above it.
    let candidate = vec4u(lane & 15u);
    var sum = vec4f();
    for (var i = lane & ~15u; i < (lane | 15u) + 1u; i++) {
        sum += select(vec4f(), sh_weights[i], sh_digits[i] >= candidate);
    }
    let total = fold(dot(sum, vec4f(1.0)), lane);
    if lane < 16u { sums[((params.pass_index & 1u) * params.groups + group) * 16u + lane] = total; }
}

fn scan(group: u32, lane: u32) {
    let quad = group * WG + lane;
    let y = processed(quad);
    let m = workgroup_max(max(max(y.x, y.y), max(y.z, y.w)), lane);
    let s = workgroup_sum(dot(exp(y - m), vec4f(1.0)), lane);

    var kept = vec4<bool>(true);
    if params.truncated != 0u {
        let found = settled(lane);
        kept = (keys_of(y) >= vec4u(max(found.x, found.y))) & (y - bitcast<f32>(found.w) >= vec4f(params.margin));
    }
    var draw = y;
    var best = m;
    if params.temperature > 0.0 {
        draw = max(y + params.temperature * gumbel(quad), vec4f(F32_LOWEST));
        draw = select(vec4f(F32_LOWEST), draw, kept);
        best = workgroup_max(max(max(draw.x, draw.y), max(draw.z, draw.w)), lane);
    }
    let first = select(vec4f(F32_LOWEST), -vec4f(ids_of(quad)), draw == vec4f(best)); // ids are below 2^24
    let id = -workgroup_max(max(max(first.x, first.y), max(first.z, first.w)), lane);
    if lane == 0u { partials[params.truncated * params.groups + group] = vec4f(m, s, best, id); }
}

fn pick(lane: u32) {
    let first = params.truncated * params.groups;
    var m_lane = F32_LOWEST;
    var best_lane = F32_LOWEST;
    for (var g = lane; g < params.groups; g += WG) {
        m_lane = max(m_lane, partials[first + g].x);
        best_lane = max(best_lane, partials[first + g].z);
    }
    let m = workgroup_max(m_lane, lane);
    var best = m;
    if params.temperature > 0.0 { best = workgroup_max(best_lane, lane); }
    var s_lane = 0.0;
    var id_lane = F32_LOWEST;
    for (var g = lane; g < params.groups; g += WG) {
        let part = partials[first + g];
        s_lane += part.y * exp(part.x - m);
        if part.z == best { id_lane = max(id_lane, -part.w); }
    }
    let s = workgroup_sum(s_lane, lane);
    let id = u32(-workgroup_max(id_lane, lane));
    if lane == 0u {
        let y = processed(id >> 2u);
        let logprob = (y[id & 3u] - m) - log(s);
        tokens[params.index] = id;
        record[0] = id;
        record[1] = bitcast<u32>(logprob);
        seen[id >> 5u] |= 1u << (id & 31u);
    }
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) wg: vec3u, @builtin(local_invocation_index) lane: u32) {
    if STAGE == SCAN { scan(wg.x, lane); }
    if STAGE == NARROW { narrow(wg.x, lane); }
    if STAGE == PICK { pick(lane); }
}
