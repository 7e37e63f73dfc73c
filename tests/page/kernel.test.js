const SAMPLES = (() => {
  const list = [-1e4, -100, -90, -20, -5, -4, -3.999, -1.0001, -1, -0.61, -0.5999, -1e-3, -1e-20, 0];
  list.push(1e-20, 1e-3, 0.5999, 0.61);
  for (let x = -9; x < 9; x += 0.037) list.push(x);
  return list.concat([0.999, 1, 1.0001, 3.999, 4.001, 5, 20, 80, 88, 89, 1e4]);
})();

function put(kernel, values) {
  const address = kernel.alloc(4 * (values.length + 3));
  kernel.floats.set(values, address >> 2);
  return address;
}

function get(kernel, address, n) {
  return kernel.floats.slice(address >> 2, (address >> 2) + n);
}

test("both kernels open, and the fallback is taken where there is no WebAssembly", () => {
  assert(openKernel(given.wasm).simd);
  assert(!openKernel(null).simd);
  assert(!openKernel(new Uint8Array([0, 97, 115, 109])).simd);
});

test("memory grows, and keeps what it held", () => {
  for (const make of Object.values(KERNELS)) {
    const kernel = make();
    const small = put(kernel, [1, 2, 3]);
    const large = kernel.alloc(1 << 22);
    kernel.floats[(large >> 2) + (1 << 20) - 1] = 7;
    assertEqual(get(kernel, small, 3), [1, 2, 3]);
    assert(large % 16 === 0);
  }
});

for (const [kind, make] of Object.entries(KERNELS)) {
  for (const name of Object.keys(UNARY)) {
    test(`${name}, ${kind}`, () => {
      const kernel = make();
      const positive = ["log", "sqrt", "rsqrt"].includes(name);
      const x = Float32Array.from(SAMPLES, (value) => (positive ? Math.abs(value) : value));
      const at = put(kernel, x);
      const out = kernel.alloc(4 * x.length + 16);
      kernel.unary(name, out, at, (x.length + 3) & ~3, { slope: 0.1 });
      const got = get(kernel, out, x.length);
      x.forEach((value, i) => {
        const expected = Math.fround(UNARY[name](value, { slope: 0.1 }));
        if (Object.is(got[i], expected) || got[i] === expected) return;
        const size = name.startsWith("gelu") ? Math.max(1, Math.abs(value)) : Math.abs(expected); // 1 + erf cancels
        const off = Math.abs(got[i] - expected);
        assert(off < 4e-7 * size + 1e-36, `${name}(${value}): expected ${expected}, got ${got[i]}`); // 0 where denormal
      });
      kernel.unary(name, at, at, (x.length + 3) & ~3, { slope: 0.1 });
      assertEqual(get(kernel, at, x.length), got);
    });
  }

  test(`exp, tanh and erf of numbers that are none stay none, ${kind}`, () => {
    const kernel = make();
    for (const name of ["exp", "sigmoid", "tanh", "erf", "silu", "gelu"]) {
      const at = put(kernel, [NaN, 1, NaN, 2]);
      kernel.unary(name, at, at, 4);
      assertEqual([...get(kernel, at, 4)].map(Number.isNaN), [true, false, true, false]);
    }
  });

  for (const name of Object.keys(BINARY)) {
    test(`${name} with broadcasting, ${kind}`, () => {
      const kernel = make();
      const random = new Random(1, name);
      const numbers = (n) => Float32Array.from(random.normal(n), (v) => (name === "pow" ? Math.abs(v) : v));
      const columns = 5;
      const [full, column, row, one] = [TILE * columns, TILE, columns, 1].map(numbers);
      const operands = [
        [full, TILE, 1, (r, j) => full[j * TILE + r]],
        [column, 0, 1, (r) => column[r]],
        [row, 1, 0, (r, j) => row[j]],
        [one, 0, 0, () => one[0]],
      ];
      for (const [a, aStep, aWide, aAt] of operands) {
        for (const [b, bStep, bWide, bAt] of operands) {
          const out = kernel.alloc(4 * full.length);
          kernel.binary(name, out, put(kernel, a), aStep, aWide, put(kernel, b), bStep, bWide, TILE, columns);
          const expected = full.map((_, i) => {
            const [r, j] = [i % TILE, (i / TILE) | 0];
            return BINARY[name](aAt(r, j), bAt(r, j));
          });
          assertClose(get(kernel, out, full.length), expected, 1e-7, name);
        }
      }
    });
  }

  test(`sum and layer norm over columns, ${kind}`, () => {
    const kernel = make();
    for (const rows of [TILE, 1]) {
      const columns = 7;
      const x = Float32Array.from(new Random(2, rows).normal(rows * columns), (v) => 3 + v);
      const [w, b] = ["w", "b"].map((name) => Float32Array.from(new Random(2, name).normal(columns)));
      const at = put(kernel, x);
      const out = kernel.alloc(4 * rows * columns + 16);
      const column = (r) => Array.from({ length: columns }, (_, j) => x[j * rows + r]);
      kernel.sum(out, at, rows, rows, columns, 1 / columns);
      const means = Array.from({ length: rows }, (_, r) => column(r).reduce((a, c) => a + c) / columns);
      assertClose(get(kernel, out, rows), means, 3e-7, "mean");
      kernel.layerNorm(out, at, put(kernel, w), put(kernel, b), rows, rows, columns, 1e-5);
      const expected = x.map((value, i) => {
        const [r, j] = [i % rows, (i / rows) | 0];
        const variance = column(r).reduce((a, c) => a + (c - means[r]) ** 2, 0) / columns;
        return ((value - means[r]) / Math.sqrt(variance + 1e-5)) * w[j] + b[j];
      });
      assertClose(get(kernel, out, rows * columns), expected, 1e-6, "layer norm");
      kernel.layerNorm(out, at, 0, 0, rows, rows, columns, 1e-5);
      const plain = expected.map((y, i) => (y - b[(i / rows) | 0]) / w[(i / rows) | 0]);
      assertClose(get(kernel, out, rows * columns), plain, 1e-5, "plain norm");
    }
  });
}
