/** Runs every test, or those given: two files at a time, since no driver gives devices without end. */
import { runDeno } from "./run_deno.ts";

const files = Deno.args.length > 0 ? Deno.args : ["tests"];
await runDeno(["test", "-A", "--no-check", "--parallel", ...files], { DENO_JOBS: "2" });
