/**
 * The project's own error types. Messages follow one grammar: "Cannot ‹action› as ‹requirement›: current value is
 * ‹x›", then, where there is one, what to do. TypeError stays the class for wrong kinds and shapes, RangeError for
 * wrong values.
 *
 * @module
 */

/** A file that cannot be used: truncated, hostile, of another format, or of an unsupported kind. */
export class FileFormatError extends Error {
  /** The class, for code that has only the object. */
  override name = "FileFormatError";
}

/** A model that this module does not run: another architecture, an unsupported setting, a missing tensor. */
export class UnsupportedModelError extends Error {
  /** The class, for code that has only the object. */
  override name = "UnsupportedModelError";
}

/** No usable GPU adapter, or one that lacks what a kernel needs. */
export class GpuUnavailableError extends Error {
  /** The class, for code that has only the object. */
  override name = "GpuUnavailableError";
}

/** Memory asked of the GPU and refused. The message names the bytes needed. */
export class GpuMemoryError extends Error {
  /** The class, for code that has only the object. */
  override name = "GpuMemoryError";

  /** `granted` bytes were in use as the GPU refused more. */
  constructor(message: string, readonly granted: number = 0) {
    super(message);
  }
}

/** The GPU device was lost: driver reset, unplugged, or out of memory. */
export class DeviceLostError extends Error {
  /** The class, for code that has only the object. */
  override name = "DeviceLostError";
}

/** The module's own WGSL did not compile. The message lists `wgsl/<file>:<line>`. */
export class ShaderError extends Error {
  /** The class, for code that has only the object. */
  override name = "ShaderError";
}
