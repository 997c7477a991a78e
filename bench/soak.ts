/**
 * Soak: `deno run -A bench/soak.ts [TOKENS]` generates 20,000 tokens of the bundled model over many sessions, prints
 * the memory of host and GPU as it goes, and ends in status 1 if either grows. The first tenth is for warming up.
 */
import { load } from "../mod.ts";
import { plainDevice } from "../tests/_gpu.ts";
import { driverMB } from "./_driver.ts";

/** Growth after warming up that still counts as flat: V8 and the driver keep what they may need again. */
const HOST_MB = 150, DRIVER_MB = 64;

const total = Number(Deno.args[0] ?? 20_000), { device, bytes } = await plainDevice();
const model = new URL("../models/fable-28m/fable-28m.Q8_0.gguf", import.meta.url);

let flat = true;
{
  using llama = await load(model, { device, maxContext: 512 });
  console.log(
    `# ${llama.device}, ${total} tokens\n${"tokens".padStart(8)} sessions  host MB  buffers MB  driver MB  tokens/s`,
  );
  const session = { turn: 0, made: 0 };
  const turn = async (): Promise<void> => {
    const seed = ++session.turn, options = { seed, temperature: 0.9, ignoreEos: true, maxTokens: 20 + 13 * (seed % 8) };
    using own = llama.session();
    const { text, tokens } = await own.generate(`Chapter ${seed}. Once upon a time`, options).done;
    using fork = own.fork();
    const next = await fork.generate(`Chapter ${seed}. Once upon a time${text} And then`, { ...options, topP: 0.9 })
      .done;
    const last = await llama.generate("The end of it was", { ...options, topK: 40, repetitionPenalty: 1.1 }).done;
    session.made += tokens.length + next.tokens.length + last.tokens.length;
  };
  await llama.generate(" time".repeat(500), { maxTokens: 1 }).done; // activations of the longest prompt stay
  const measure = () => ({ host: Deno.memoryUsage().rss / 1e6, buffers: bytes(), driver: driverMB() });
  let first: ReturnType<typeof measure> | undefined, at = performance.now(), made = 0;
  for (let mark = total / 10; mark <= total; mark += total / 10) {
    while (session.made < mark) await turn();
    const now = measure(), rate = (session.made - made) / (performance.now() - at) * 1e3;
    console.log(
      `${String(session.made).padStart(8)} ${String(3 * session.turn).padStart(8)} ${
        now.host.toFixed(0).padStart(8)
      } ` +
        `${(now.buffers / 1e6).toFixed(2).padStart(11)} ${String(now.driver ?? "-").padStart(10)} ${
          rate.toFixed(0).padStart(9)
        }`,
    );
    first ??= now;
    flat &&= now.buffers === first.buffers && now.host - first.host < HOST_MB &&
      (now.driver ?? 0) - (first.driver ?? 0) < DRIVER_MB;
    [at, made] = [performance.now(), session.made];
  }
}
flat &&= bytes() === 0;
console.log(flat ? "# memory is flat" : "# memory GREW");
device.destroy();
Deno.exit(flat ? 0 : 1);
