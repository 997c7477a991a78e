import type { Stage } from "../core/codec.ts";

/** Constants that compile a codec's kernel for a head and a stage. Throws `RangeError` for what they do not serve. */
export function stageConstants(headDim: number, stage: Stage): { HEAD_DIM: number; GROUP: number } {
  expectHeadDim(headDim);
  if (stage.kind === "pair") return { HEAD_DIM: headDim, GROUP: 0 };
  const pairs = headDim / 2, { pairs: group } = stage;
  if (!(group > 0) || group % 4 !== 0 || pairs % group !== 0 || pairs / group > 16) {
    throw new RangeError(
      `Cannot code groups of ${group} pairs as they must be a multiple of 4 and cut ${pairs} into at most 16`,
    );
  }
  return { HEAD_DIM: headDim, GROUP: group };
}

/** Throws `RangeError` for a head dimension that the codec's kernels do not serve. */
export function expectHeadDim(headDim: number): void {
  if (headDim > 0 && headDim % 8 === 0) return;
  throw new RangeError(`Cannot code heads as their dimension must be a multiple of 8: it is ${headDim}`);
}
