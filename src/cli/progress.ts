/**
 * Progress for people: bars on a terminal, nothing where output is piped.
 *
 * @module
 */

const WIDTH = 24;

/** A bar on standard error that redraws itself in place. */
export class ProgressBar {
  readonly #shown = Deno.stderr.isTerminal();
  #last = 0;
  #open = false;

  /** Shows `loaded` of `total`; `note` follows the bar. */
  show(label: string, loaded: number, total: number, note = ""): void {
    if (!this.#shown) return;
    const now = performance.now();
    if (loaded < total && now - this.#last < 50) return;
    this.#last = now;
    this.#open = true;
    const share = total > 0 ? Math.min(1, loaded / total) : 1, full = Math.round(share * WIDTH);
    const bar = "█".repeat(full) + "░".repeat(WIDTH - full);
    write(`\r\x1b[2K${label.padEnd(10)} ${bar} ${Math.round(100 * share)} %${note ? `  ${note}` : ""}`);
  }

  /** Removes the bar. */
  clear(): void {
    if (this.#open) write("\r\x1b[2K");
    this.#open = false;
  }
}

function write(text: string): void {
  Deno.stderr.writeSync(new TextEncoder().encode(text));
}

/** Bytes for people: `1.4 MiB`. */
export function formatBytes(bytes: number): string {
  for (const unit of ["B", "KiB", "MiB", "GiB"]) {
    if (bytes < 1000 || unit === "GiB") {
      return `${bytes < 10 && unit !== "B" ? bytes.toFixed(1) : Math.round(bytes)} ${unit}`;
    }
    bytes /= 1024;
  }
  return "";
}

/** Seconds for people: `42 s`, `3 min 10 s`. */
export function formatSeconds(seconds: number): string {
  const whole = Math.ceil(seconds);
  return whole < 60 ? `${whole} s` : `${Math.floor(whole / 60)} min ${whole % 60} s`;
}
