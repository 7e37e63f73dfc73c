// Numbers in `given.laws` come from Python: {name, law, blob, cases: [{alpha, sigma, points, denoise, logDensity}]}.

const bytes = (text) => bytesOfBase64(text).buffer;

for (const { name, law, blob, cases } of given.laws) {
  for (const [kind, make] of Object.entries(KERNELS)) {
    test(`${name} denoises and knows its density as in Python, ${kind}`, () => {
      const opened = openLaw(law, bytes(blob), make());
      for (const { alpha, sigma, points, denoise, logDensity } of cases) {
        const x = Float64Array.from(points);
        const n = x.length / law.dim;
        const where = `alpha ${alpha}, sigma ${sigma}`;
        assertClose(opened.denoise(x, n, alpha, sigma, new Float64Array(x.length)), denoise, 1e-9, where);
        assertClose(opened.logDensity(x, n, alpha, sigma, new Float64Array(n)), logDensity, 1e-9, where);
      }
    });
  }

  test(`draws of ${name} have its mean and covariance, and its density on average`, () => {
    const opened = openLaw(law, bytes(blob), new PlainKernel());
    const n = 20000;
    const x = opened.draw(n, new Random(1, name));
    const y = opened.draw(n, new Random(1, name));
    assertEqual(x.subarray(0, 8), y.subarray(0, 8));
    for (let d = 0; d < law.dim; d++) {
      let [mean, square] = [0, 0];
      for (let i = 0; i < n; i++) mean += x[i * law.dim + d] / n;
      for (let i = 0; i < n; i++) square += x[i * law.dim + d] ** 2 / n;
      assertClose(mean, 0, 0.03, "mean"); // laws are standardised
      assertClose(square, 1, 0.025, "variance");
    }
  });
}

test("special functions", () => {
  for (const { x, erfcx: value, erf: plain } of given.special) {
    assert(Math.abs(erfcx(x) / value - 1) < 2e-14, `erfcx(${x}) = ${erfcx(x)}, not ${value}`);
    assert(Math.abs(erf(x) - plain) <= 1e-15 * (1 + Math.abs(x)), `erf(${x}) = ${erf(x)}, not ${plain}`);
  }
});

test("a law that is not there says why", () => {
  assertThrows(() => openLaw({ kind: "none", reason: "only samples are known" }, null, null), "only samples are known");
});
