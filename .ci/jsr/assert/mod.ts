/** Stand-in for JSR's @std/assert in a checkout with no access to JSR: the names the project uses, over `node:assert`. */
import nodeAssert from "node:assert/strict";

export { AssertionError } from "node:assert";
import { AssertionError } from "node:assert";

export function assert(expr: unknown, msg = ""): asserts expr {
  if (!expr) throw new AssertionError({ message: msg || "expected a truthy value", actual: expr, expected: true });
}

export function fail(msg = "Failed assertion"): never {
  throw new AssertionError({ message: msg });
}

export function assertEquals<T>(actual: T, expected: T, msg?: string): void {
  nodeAssert.deepStrictEqual(actual, expected, msg);
}

export function assertNotEquals<T>(actual: T, expected: T, msg?: string): void {
  nodeAssert.notDeepStrictEqual(actual, expected, msg);
}

export function assertStrictEquals<T>(actual: unknown, expected: T, msg?: string): asserts actual is T {
  nodeAssert.strictEqual(actual, expected, msg);
}

export function assertExists<T>(
  actual: T,
  msg = "expected a value that is neither null nor undefined",
): asserts actual is NonNullable<T> {
  if (actual === undefined || actual === null) throw new AssertionError({ message: msg, actual });
}

export function assertAlmostEquals(actual: number, expected: number, tolerance?: number, msg = ""): void {
  if (Object.is(actual, expected)) return;
  const limit = tolerance ?? (Number.isFinite(expected) ? Math.abs(expected * 1e-7) : 1e-7);
  if (Math.abs(actual - expected) <= limit) return;
  throw new AssertionError({
    message: `${msg} expected ${actual} to be within ${limit} of ${expected}`.trim(),
    actual,
    expected,
  });
}

export function assertGreater<T>(actual: T, expected: T, msg = ""): void {
  if (actual > expected) return;
  throw new AssertionError({ message: `${msg} expected ${actual} > ${expected}`.trim(), actual, expected });
}

export function assertGreaterOrEqual<T>(actual: T, expected: T, msg = ""): void {
  if (actual >= expected) return;
  throw new AssertionError({ message: `${msg} expected ${actual} >= ${expected}`.trim(), actual, expected });
}

export function assertLess<T>(actual: T, expected: T, msg = ""): void {
  if (actual < expected) return;
  throw new AssertionError({ message: `${msg} expected ${actual} < ${expected}`.trim(), actual, expected });
}

export function assertLessOrEqual<T>(actual: T, expected: T, msg = ""): void {
  if (actual <= expected) return;
  throw new AssertionError({ message: `${msg} expected ${actual} <= ${expected}`.trim(), actual, expected });
}

export function assertStringIncludes(actual: string, expected: string, msg = ""): void {
  if (actual.includes(expected)) return;
  throw new AssertionError({
    message: `${msg} expected ${JSON.stringify(actual)} to include ${JSON.stringify(expected)}`.trim(),
    actual,
    expected,
  });
}

export function assertMatch(actual: string, expected: RegExp, msg = ""): void {
  if (expected.test(actual)) return;
  throw new AssertionError({
    message: `${msg} expected ${JSON.stringify(actual)} to match ${expected}`.trim(),
    actual,
    expected,
  });
}

// deno-lint-ignore no-explicit-any -- any constructor can be named, as in the original
type ErrorClass<E extends Error> = new (...args: any[]) => E;

function checkError<E extends Error>(error: unknown, errorClass?: ErrorClass<E>, msgIncludes?: string, msg = ""): E {
  if (!(error instanceof Error)) {
    throw new AssertionError({ message: `${msg} a non-Error was thrown: ${error}`.trim(), actual: error });
  }
  if (errorClass && !(error instanceof errorClass)) {
    throw new AssertionError({
      message: `${msg} expected ${errorClass.name}, got ${error.constructor.name}: ${error.message}`.trim(),
      actual: error,
    });
  }
  if (msgIncludes && !error.message.includes(msgIncludes)) {
    throw new AssertionError({
      message: `${msg} expected the message to include ${JSON.stringify(msgIncludes)}: ${error.message}`.trim(),
      actual: error,
    });
  }
  return error as E;
}

export function assertThrows<E extends Error = Error>(
  fn: () => unknown,
  errorClass?: ErrorClass<E>,
  msgIncludes?: string,
  msg = "",
): E {
  let thrown: unknown;
  try {
    fn();
  } catch (error) {
    thrown = error;
    return checkError(thrown, errorClass, msgIncludes, msg);
  }
  throw new AssertionError({ message: `${msg} expected the function to throw`.trim() });
}

export async function assertRejects<E extends Error = Error>(
  fn: () => PromiseLike<unknown>,
  errorClass?: ErrorClass<E>,
  msgIncludes?: string,
  msg = "",
): Promise<E> {
  let thrown: unknown;
  try {
    await fn();
  } catch (error) {
    thrown = error;
    return checkError(thrown, errorClass, msgIncludes, msg);
  }
  throw new AssertionError({ message: `${msg} expected the promise to reject`.trim() });
}
