/** Runs Deno in this terminal, and ends as it does. */
export async function runDeno(args: string[], env: Record<string, string> = {}): Promise<never> {
  const { code } = await new Deno.Command(Deno.execPath(), {
    args,
    // Without it the software driver complains of a missing window system.
    env: { XDG_RUNTIME_DIR: Deno.env.get("XDG_RUNTIME_DIR") || "/tmp", ...env },
  }).spawn().status;
  Deno.exit(code);
}
