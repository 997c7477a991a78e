import { Args, UsageError } from "./args.ts";

export const INSPECT_HELP = "usage: commvq inspect FILE";

/** `inspect`: what a file holds. */
export function inspect(argv: string[]): Promise<void> {
  const args = new Args("inspect", argv, { values: [] });
  if (args.rest.length !== 1) throw new UsageError("Cannot inspect without one FILE");
  return Promise.resolve();
}
