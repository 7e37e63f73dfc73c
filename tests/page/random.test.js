const DRAWS = 200000;

function moments(values) {
  const mean = values.reduce((a, b) => a + b, 0) / values.length;
  const power = (p) => values.reduce((a, b) => a + (b - mean) ** p, 0) / values.length;
  return { mean, variance: power(2), skew: power(3) / power(2) ** 1.5, kurtosis: power(4) / power(2) ** 2 };
}

function correlation(a, b) {
  return a.reduce((sum, value, i) => sum + value * b[i], 0) / a.length;
}

test("a stream is its seed and name", () => {
  assertEqual(new Random(1, "a").normal(5), new Random(1, "a").normal(5));
  const first = (...name) => new Random(...name).bits();
  const names = [[1, "a"], [2, "a"], [1, "b"], [1, "a", 0], [1, "a", 1], [11, "a"], [1, "1a"]];
  assertEqual(new Set(names.map((name) => first(...name))).size, 7);
});

test("normal numbers have the moments of the normal law", () => {
  const { mean, variance, skew, kurtosis } = moments(new Random(0, "moments").normal(DRAWS));
  const error = 4 / Math.sqrt(DRAWS);
  assert(Math.abs(mean) < error, `mean ${mean}`);
  assert(Math.abs(variance - 1) < error * Math.sqrt(2), `variance ${variance}`);
  assert(Math.abs(skew) < error * Math.sqrt(6), `skew ${skew}`);
  assert(Math.abs(kurtosis - 3) < error * Math.sqrt(24), `kurtosis ${kurtosis}`);
});

test("uniform numbers are uniform, bit by bit", () => {
  const random = new Random(3, "uniform");
  const values = Float64Array.from({ length: DRAWS }, () => random.uniform());
  const { mean, variance } = moments(values);
  assert(values.every((u) => u >= 0 && u < 1));
  assertClose(mean, 0.5, 0.002);
  assertClose(variance, 1 / 12, 0.001);
  for (let bit = 0; bit < 32; bit++) {
    let ones = 0;
    for (let i = 0; i < 20000; i++) ones += (random.bits() >>> bit) & 1;
    assert(Math.abs(ones - 10000) < 5 * 71, `bit ${bit}: ${ones}`);
  }
});

test("streams of neighbouring seeds and names are not correlated", () => {
  const n = 20000;
  const a = new Random(1, "noise").normal(n);
  for (const other of [new Random(2, "noise"), new Random(1, "start"), new Random(1, "noise", 1)]) {
    const b = other.normal(n);
    assert(Math.abs(correlation(a, b)) < 4 / Math.sqrt(n));
    assert(Math.abs(correlation(a.subarray(1), b)) < 4 / Math.sqrt(n));
  }
});

test("a permutation holds every number once, and moves them", () => {
  const order = new Random(5, "order").permutation(1000);
  assertEqual([...order].sort((a, b) => a - b), Array.from({ length: 1000 }, (_, i) => i));
  assert(order.filter((value, i) => value === i).length < 10);
});
