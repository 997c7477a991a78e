/** Megabytes of GPU memory that the driver says are in use, where there is one to ask. */
export function driverMB(): number | undefined {
  try {
    const args = ["--query-gpu=memory.used", "--format=csv,noheader,nounits"];
    const { code, stdout } = new Deno.Command("nvidia-smi", { args }).outputSync();
    return code === 0 ? Number(new TextDecoder().decode(stdout).split("\n")[0]) : undefined;
  } catch {
    return undefined;
  }
}
