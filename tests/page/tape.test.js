// A tape is built by hand, register by register, and held against formulas in double precision.

class TapeWriter {
  constructor(columns) {
    this.blob = new BlobWriter();
    this.tape = { tile: TILE, columns, dim: 0, parameters: 0, registers: [], constants: [], head: [], body: [] };
    this.tape.x = this.register(TILE, columns);
    this.tape.c_noise = this.register(1, 1);
  }

  register(rows, columns) {
    return this.tape.registers.push([rows, columns]) - 1;
  }

  constant(values, rows, columns) {
    const r = this.register(rows, columns);
    this.tape.constants.push([r, this.blob.add(values, [rows, columns])]);
    return r;
  }

  put(part, op, [rows, columns], inputs, attributes = {}) {
    const out = this.register(rows, columns);
    this.tape[part].push([op, out, inputs, attributes]);
    return out;
  }

  run(kernel, out, x, n, conditions = [], cNoise = 0) {
    const dim = this.tape.registers[out][1];
    const program = new Program({ ...this.tape, out, dim }, this.blob.buffer, kernel);
    return program.run(x, n, conditions, cNoise, new Float64Array(n * dim));
  }
}

const N = 130; // two tiles and a bit
const numbers = (n, ...name) => Float32Array.from(new Random(7, ...name).normal(n));

function linear(x, n, k, w, b, m) {
  const out = new Float64Array(n * m);
  for (let i = 0; i < n; i++) {
    for (let j = 0; j < m; j++) {
      out[i * m + j] = b ? b[j] : 0;
      for (let c = 0; c < k; c++) out[i * m + j] += Math.fround(x[i * k + c]) * w[j * k + c];
    }
  }
  return out;
}

for (const [kind, make] of Object.entries(KERNELS)) {
  test(`linear layers of all sizes, with and without bias, ${kind}`, () => {
    for (const [k, m] of [[1, 1], [2, 3], [3, 4], [5, 2], [7, 9], [130, 66]]) {
      for (const biased of [true, false]) {
        const writer = new TapeWriter(k);
        const [x, w, b] = [new Random(1, k).normal(N * k), numbers(m * k, "w"), biased ? numbers(m, "b") : null];
        const out = writer.put("body", "linear", [TILE, m], [
          writer.tape.x,
          writer.constant(w, m, k),
          biased ? writer.constant(b, 1, m) : -1,
        ]);
        assertClose(writer.run(make(), out, x, N), linear(x, N, k, w, b, m), 1e-5, `${k} to ${m}`);
      }
    }
  });

  test(`a layer with 64 outputs is no tile, ${kind}`, () => {
    const writer = new TapeWriter(3);
    const [x, w] = [new Random(1).normal(N * 3), numbers(64 * 3, "w")];
    const out = writer.put("body", "linear", [TILE, 64], [writer.tape.x, writer.constant(w, 64, 3), -1]);
    assertClose(writer.run(make(), out, x, N), linear(x, N, 3, w, null, 64), 1e-6);
  });

  test(`the head runs on the noise level, and joins the points, ${kind}`, () => {
    const writer = new TapeWriter(3); // two coordinates and a condition
    const { x, c_noise: c } = writer.tape;
    const [wHead, wBody, frequencies] = [numbers(5 * 6, "h"), numbers(2 * 8, "b"), numbers(3, "f")];
    const angle = writer.put("head", "mul", [1, 3], [c, writer.constant(frequencies, 1, 3)]);
    const wave = (op) => writer.put("head", op, [1, 3], [angle]);
    const waves = writer.put("head", "cat", [1, 6], [wave("cos"), wave("sin")]);
    const bias = writer.put("head", "linear", [1, 5], [waves, writer.constant(wHead, 5, 6), -1]);
    const joined = writer.put("body", "cat", [TILE, 8], [x, bias]);
    const computed = writer.put("head", "slice", [1, 2], [bias], { start: 1, stop: 3 });
    const out = writer.put("body", "linear", [TILE, 2], [joined, writer.constant(wBody, 2, 8), computed]);
    const points = new Random(1).normal(N * 2);
    const emb = (() => {
      const angles = [...frequencies].map((f) => Math.fround(0.7) * f);
      return linear([...angles.map(Math.cos), ...angles.map(Math.sin)], 1, 6, wHead, null, 5);
    })();
    const wide = new Float64Array(N * 8);
    for (let i = 0; i < N; i++) wide.set([points[2 * i], points[2 * i + 1], 0.25, ...emb], i * 8);
    const expected = linear(wide, N, 8, wBody, emb.subarray(1, 3), 2);
    assertClose(writer.run(make(), out, points, N, [0.25], 0.7), expected, 2e-6);
  });

  test(`registers that share memory do not disturb one another, ${kind}`, () => {
    const writer = new TapeWriter(4);
    const { x } = writer.tape;
    const body = (op, shape, ...inputs) => writer.put("body", op, shape, inputs);
    const a = body("exp", [TILE, 4], x);
    const b = body("neg", [TILE, 4], x);
    const c = body("add", [TILE, 4], a, b); // exp(x) - x, over a or b
    const s = writer.put("body", "slice", [TILE, 2], [c], { start: 1, stop: 3 });
    const total = body("sum", [TILE, 1], s);
    const d = body("mul", [TILE, 4], a, total);
    const again = body("sub", [TILE, 4], d, x);
    const mean = body("mean", [TILE, 1], again);
    const both = body("cat", [TILE, 5], again, mean);
    const out = body("maximum", [TILE, 5], both, writer.constant([0, -1, 0, -1, 2], 1, 5));
    const points = new Random(4).normal(N * 4).map(Math.fround);
    const expected = [];
    for (let i = 0; i < N; i++) {
      const p = points.subarray(4 * i, 4 * i + 4);
      const e = [...p].map(Math.exp);
      const sum = e[1] - p[1] + e[2] - p[2];
      const row = e.map((v, j) => v * sum - p[j]);
      row.push(row.reduce((u, v) => u + v) / 4);
      expected.push(...row.map((v, j) => Math.max(v, [0, -1, 0, -1, 2][j])));
    }
    assertClose(writer.run(make(), out, points, N), expected, 2e-6);
  });

  test(`copy spreads rows and columns, ${kind}`, () => {
    const writer = new TapeWriter(1);
    const row = writer.constant([1, 2, 3], 1, 3);
    const wide = writer.put("body", "copy", [TILE, 3], [row]);
    const tall = writer.put("body", "copy", [TILE, 3], [writer.tape.x]);
    const points = new Random(4).normal(N).map(Math.fround);
    const sum = writer.put("body", "add", [TILE, 3], [wide, tall]);
    assertClose(writer.run(make(), sum, points, N), [...points].flatMap((p) => [p + 1, p + 2, p + 3]), 1e-6);
  });

  test(`where chooses between registers of all shapes, ${kind}`, () => {
    const writer = new TapeWriter(2);
    const body = (op, shape, ...inputs) => writer.put("body", op, shape, inputs);
    const mask = body("step", [TILE, 2], writer.tape.x);
    const out = body("where", [TILE, 2], mask, writer.constant([3, 4], 1, 2), body("sum", [TILE, 1], writer.tape.x));
    const points = new Random(5).normal(2 * N).map(Math.fround);
    const expected = points.map((v, i) => (v > 0 ? 3 + (i % 2) : points[i & ~1] + points[i | 1]));
    assertClose(writer.run(make(), out, points, N), expected, 1e-6);
  });

  test(`a network that does not look at x, ${kind}`, () => {
    const writer = new TapeWriter(2);
    const zero = writer.constant([0, 5], 1, 2);
    assertEqual(writer.run(make(), zero, new Float64Array(6), 3), [0, 5, 0, 5, 0, 5]);
  });
}

test("what does not fit is an error", () => {
  const kernel = new PlainKernel();
  const writer = new TapeWriter(2);
  const odd = writer.put("body", "conv", [TILE, 2], [writer.tape.x]);
  assertThrows(() => writer.run(kernel, odd, new Float64Array(2), 1), "no operation conv");
  const computed = new TapeWriter(2);
  const { x } = computed.tape;
  const out = computed.put("body", "linear", [TILE, 64], [x, computed.put("body", "neg", [TILE, 2], [x]), -1]);
  assertThrows(() => computed.run(kernel, out, new Float64Array(2), 1), "constants");
});
