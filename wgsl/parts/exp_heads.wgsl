// exp of heads as accurate as f32 allows: a device's own may err by 2 |x| units in the last place (its product with
// log2(e) is rounded), which sums over a context would show. For x <= 0. The importing kernel imports a heads part.

fn exp_heads(x: Heads) -> Heads {
    let held = max(x, Heads(-150.0)); // 0 from about -104 on
    let power = held * 1.44269504;
    let left = fma(held, Heads(1.44269504), -power) + held * 1.925963e-8; // of the product, and of log2(e) itself
    return exp2(power) * fma(left, Heads(0.69314718), Heads(1.0));
}
