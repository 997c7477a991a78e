import { inspectModel, type ModelInspection } from "../../mod.ts";
import { Args, UsageError } from "./args.ts";
import { formatBytes } from "./progress.ts";

const INSPECT_HELP = `usage: commvq inspect [--json] FILE

  FILE     a .gguf file, a Hugging Face folder, or a URL of either
  --json   print one JSON object and nothing else`;

/** Contexts that the table of cache sizes is for. */
const CONTEXTS = [4096, 32768, 131072];

/** `inspect`: what a file holds, checked as loading would. */
export async function inspect(argv: string[]): Promise<void> {
  if (argv.includes("--help")) return console.log(INSPECT_HELP);
  const args = new Args("inspect", argv, { values: [], flags: ["json"] });
  if (args.rest.length !== 1) throw new UsageError("Cannot inspect without one FILE: name a model");
  const found = await inspectModel(args.rest[0]!);
  console.log(args.flag("json") ? JSON.stringify(found) : describe(found));
}

function describe(
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
  const table = [header, ...sizes].map((row) =>
    row.map((cell, i) => i ? cell.padStart(12) : cell.padEnd(11)).join(" ")
  );
  return [...rows.map(([key, value]) => `${key.padEnd(12)}${value}`), "", ...table].join("\n");
}
