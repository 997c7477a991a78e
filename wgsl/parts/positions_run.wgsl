// Positions of a stream that holds every token from params.base on, in order.
const IS_RUN: bool = true;

fn token_position(head: u32, index: u32) -> u32 {
    return params.base + index;
}
