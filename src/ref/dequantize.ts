import { BLOCKS, type WeightType } from "../core/model.ts";

/** One block's numbers. Layouts are those of ggml's `block_*` structures and of its `dequantize_row_*`. */
type Decode = (block: DataView, out: Float32Array) => void;

const DECODE: Readonly<Record<WeightType, Decode>> = {
  F32: (block, out) => out[0] = block.getFloat32(0, true),
  F16: (block, out) => out[0] = block.getFloat16(0, true),
  BF16: (block, out) => new DataView(out.buffer, out.byteOffset).setUint32(0, block.getUint16(0, true) << 16, true),
  // d f16, then 32 int8
  Q8_0: (block, out) => {
    const d = block.getFloat16(0, true);
    for (let i = 0; i < 32; i++) out[i] = d * block.getInt8(2 + i);
  },
  // d f16, then 16 bytes: low halves are the first 16 weights, high halves the last
  Q4_0: (block, out) => {
    const d = block.getFloat16(0, true);
    for (let i = 0; i < 32; i++) out[i] = d * ((block.getUint8(2 + i % 16) >> (i < 16 ? 0 : 4) & 15) - 8);
  },
  // d, dmin f16, 12 bytes of eight 6-bit scales and minima, then 128 bytes: 32 hold two sub-blocks of 32
  Q4_K: (block, out) => {
    const d = block.getFloat16(0, true), dmin = block.getFloat16(2, true);
    for (let sub = 0; sub < 8; sub++) {
      const [scale, min] = scaleAndMin(block, sub);
      for (let i = 0; i < 32; i++) {
        const q = block.getUint8(16 + 32 * (sub >> 1) + i) >> 4 * (sub & 1) & 15;
        out[32 * sub + i] = d * scale * q - dmin * min;
      }
    }
  },
  // 128 bytes of low 4 bits, 64 of high 2 bits, 16 int8 scales, d f16; halves of 128 weights
  Q6_K: (block, out) => {
    const d = block.getFloat16(208, true);
    for (let i = 0; i < 256; i++) {
      const half = i >> 7, quarter = i >> 5 & 3, l = i & 31;
      const low = block.getUint8(64 * half + 32 * (quarter & 1) + l) >> 4 * (quarter >> 1) & 15;
      const high = block.getUint8(128 + 32 * half + l) >> 2 * quarter & 3;
      out[i] = d * block.getInt8(192 + (i >> 4)) * ((high << 4 | low) - 32);
    }
  },
};

/** ggml's `get_scale_min_k4`: the low six bits of bytes 0 to 7 are those of sub-blocks 0 to 3, the rest is spread. */
function scaleAndMin(block: DataView, sub: number): [number, number] {
  const byte = (i: number): number => block.getUint8(4 + i);
  if (sub < 4) return [byte(sub) & 63, byte(sub + 4) & 63];
  return [byte(sub + 4) & 15 | byte(sub - 4) >> 6 << 4, byte(sub + 4) >> 4 | byte(sub) >> 6 << 4];
}

/** The `count` numbers that a file's bytes stand for, for every type of weights. */
export function dequantize(type: WeightType, file: Uint8Array, count: number): Float32Array {
  const { weights, bytes } = BLOCKS[type], out = new Float32Array(count), blocks = count / weights;
  if (file.length !== blocks * bytes) {
    throw new TypeError(
      `Cannot decode ${count} ${type} weights as they take ${blocks * bytes} bytes: got ${file.length}`,
    );
  }
  for (let b = 0; b < blocks; b++) {
    const block = new DataView(file.buffer, file.byteOffset + b * bytes, bytes);
    DECODE[type](block, out.subarray(b * weights, (b + 1) * weights));
  }
  return out;
}
