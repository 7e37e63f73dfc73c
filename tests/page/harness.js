// The smallest of test frameworks: test(name, body), and assertions that say what they saw.

const tests = [];

function test(name, body) {
  tests.push({ name, body });
}

/** Both kernels, by name; `given.wasm` holds the bytes of kernel.wasm. */
const KERNELS = { vectors: () => new VectorKernel(given.wasm), plain: () => new PlainKernel() };

function assert(condition, message = "should hold") {
  if (!condition) throw new Error(message);
}

function assertEqual(actual, expected) {
  const [a, b] = [actual, expected].map((value) => JSON.stringify(ArrayBuffer.isView(value) ? [...value] : value));
  if (a !== b) throw new Error(`expected ${b}, got ${a}`);
}

/** Numbers, or arrays of numbers, that differ by at most `tolerance` times (1 + size). */
function assertClose(actual, expected, tolerance, what = "") {
  const list = (value) => (typeof value === "number" ? [value] : [...value]);
  const [a, b] = [list(actual), list(expected)];
  if (a.length !== b.length) throw new Error(`${what}: expected ${b.length} numbers, got ${a.length}`);
  a.forEach((value, i) => {
    const off = Math.abs(value - b[i]);
    if (value !== b[i] && !(off <= tolerance * (1 + Math.abs(b[i])))) {
      throw new Error(`${what}[${i}]: expected ${b[i]}, got ${value}, off by ${off}`);
    }
  });
}

function assertThrows(body, part) {
  try {
    body();
  } catch (error) {
    if (error.message.includes(part)) return;
    throw new Error(`expected an error that says "${part}", got "${error.message}"`);
  }
  throw new Error(`expected an error that says "${part}"`);
}

/** Arrays of a document, put into one blob as they come. */
class BlobWriter {
  constructor() {
    this.buffer = new ArrayBuffer(1 << 20);
    this.offset = 0;
  }

  add(values, shape, dtype = "f4") {
    const array = { dtype, shape, offset: this.offset };
    arrayView(this.buffer, array).set(values);
    this.offset += (shape.reduce((a, b) => a * b, 1) * 8 + 7) & ~7;
    return array;
  }
}

/** Runs all tests: [name, what went wrong or null]. */
async function runTests() {
  const results = [];
  for (const { name, body } of tests) {
    try {
      await body();
      results.push([name, null]);
    } catch (error) {
      results.push([name, String(error.stack ?? error)]);
    }
  }
  return results;
}
