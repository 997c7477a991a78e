import {
  type CacheInspection,
  type CodebookInspection,
  inspectFile,
  type ModelInspection,
  type StageUse,
} from "../../mod.ts";
import { Args, UsageError } from "./args.ts";
import { formatBytes } from "./progress.ts";

const INSPECT_HELP = `usage: commvq inspect [--json] FILE

  FILE     a model (a .gguf file or a Hugging Face folder), a codebook or a saved cache (.safetensors), or a URL of one
  --json   print one JSON object and nothing else`;

/** Contexts that the table of cache sizes is for. */
const CONTEXTS = [4096, 32768, 131072];

/** `inspect`: what a file holds, checked as loading would. */
export async function inspect(argv: string[]): Promise<void> {
  if (argv.includes("--help")) return console.log(INSPECT_HELP);
  const args = new Args("inspect", argv, { values: [], flags: ["json"] });
  if (args.rest.length !== 1) {
    throw new UsageError("Cannot inspect without one FILE: name a model, a codebook or a saved cache");
  }
  const found = await inspectFile(args.rest[0]!);
  console.log(args.flag("json") ? JSON.stringify(found) : describe(found));
}

function describe(found: ModelInspection | CodebookInspection | CacheInspection): string {
  if (found.kind === "cache") return table(rowsOfCache(found));
  return found.kind === "codebook" ? table(rowsOfCodebook(found)) : describeModel(found);
}

function table(rows: readonly (readonly [string, string])[]): string {
  return rows.map(([key, value]) => `${key.padEnd(12)}${value}`).join("\n");
}

function rowsOfCache(
  { name, tokens, encoded, layers, byteLength, bits, window, sinks, model, codebook }: CacheInspection,
): [string, string][] {
  const rows: [string, string][] = [
    ["saved cache", `${name}, ${formatBytes(byteLength)}`],
    ["tokens", encoded === 0 ? `${tokens}, exact` : `${tokens}, of which ${encoded} are encoded and the others exact`],
    ["layers", `${layers}`],
    ["bits", `keys and values at ${bits}${codebook && `; at least ${window} newest and ${sinks} first tokens exact`}`],
    ["model", model],
  ];
  return codebook ? [...rows, ["codebook", codebook]] : rows;
}

function rowsOfCodebook(
  { name, model, finished, bits, uses, precision, record, byteLength }: CodebookInspection,
): [string, string][] {
  const use = ({ base, stages, share }: StageUse): string =>
    stages ? `${base} stages, ${stages} for ${(100 * share!).toFixed(0)} % of tokens` : `${base} stages`;
  return [
    ["codebook", `${name}, ${formatBytes(byteLength)}, words in ${precision}`],
    [
      "layers",
      `${finished} of ${model.layers} trained, ${model.kvHeads} key/value heads of dimension ${model.headDim}`,
    ],
    ["bits", `up to ${bits.k.toFixed(2)} an element of keys and ${bits.v.toFixed(2)} of values, scales included`],
    ...Object.entries(uses).map(([bits, { keys, values }]): [string, string] => [
      `at ${bits} bit${bits === "1" ? "" : "s"}`,
      `keys in ${use(keys)}; values in ${use(values)}`,
    ]),
    ["model", model.fingerprint],
    ...Object.entries(record).filter(([, value]) => value.length <= 100),
  ];
}

function describeModel(
  { kind, name, fingerprint, config, parameters, weightBytes, bytesByType, f16BytesPerToken }: ModelInspection,
): string {
  const types = Object.entries(bytesByType).map(([type, bytes]) => `${type} ${formatBytes(bytes)}`).join(", ");
  const { ropeScaling, tiedEmbeddings } = config;
  const rows: [string, string][] = [
    [
      "model",
      `${name} (${kind === "gguf" ? "GGUF" : "Hugging Face"}), ${(parameters / 1e6).toFixed(1)} million parameters`,
    ],
    ["weights", `${formatBytes(weightBytes)}: ${types}`],
    ["layers", `${config.layers} of width ${config.hidden}, feed-forward ${config.ffn}`],
    ["heads", `${config.qHeads} query, ${config.kvHeads} key/value, of dimension ${config.headDim}`],
    ["vocabulary", `${config.vocab}${tiedEmbeddings ? ", embedding and output tied" : ""}`],
    [
      "context",
      `${config.context} tokens, RoPE base ${config.ropeTheta}${ropeScaling ? `, scaled: ${ropeScaling.type}` : ""}`,
    ],
    ["fingerprint", fingerprint],
  ];
  const header = ["cache", ...CONTEXTS.map((tokens) => `${tokens / 1024}K tokens`)];
  const sizes = [16, 2, 1].map((bits) => [
    bits === 16 ? "f16" : `${bits} bit`,
    ...CONTEXTS.map((tokens) => formatBytes(f16BytesPerToken * tokens * bits / 16)),
  ]);
  const lines = [header, ...sizes].map((row) =>
    row.map((cell, i) => i ? cell.padStart(12) : cell.padEnd(11)).join(" ")
  );
  return [table(rows), "", ...lines].join("\n");
}
