// Arrays as they lie in the page: one blob of little-endian numbers, and descriptions {dtype, shape, offset} of parts.

/** The bytes behind base64 text; white space between is skipped. */
export function bytesOfBase64(text) {
  const binary = atob(text);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
  return bytes;
}

const ARRAY_TYPES = { f4: Float32Array, f8: Float64Array, i4: Int32Array, u2: Uint16Array, u1: Uint8Array };

/** A view of the described part of `blob` (an ArrayBuffer): nothing is copied. */
export function arrayView(blob, { dtype, shape, offset }) {
  const type = ARRAY_TYPES[dtype];
  if (!type) throw new Error(`arrays are of ${Object.keys(ARRAY_TYPES).join(", ")}, given ${dtype}`);
  const length = shape.reduce((product, size) => product * size, 1);
  return new type(blob, offset, length);
}
