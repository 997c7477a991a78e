// Positions of a stream that holds some tokens: positions u32 [K][T], and params.base is added to them.
const IS_RUN: bool = false;

fn token_position(head: u32, index: u32) -> u32 {
    return params.base + positions[head * params.stream + index];
}
