const GRID = { x0: -2, x1: 2, y0: -1, y1: 1.5, nx: 7, ny: 5 };

function finish(generator) {
  const reports = [];
  for (;;) {
    const { done, value } = generator.next();
    if (done) return [value, reports];
    reports.push(value);
  }
}

for (const [kind, wasm] of Object.entries({ vectors: given.wasm, plain: null })) {
  const open = () => new Engine(...smallDocument(), wasm);

  test(`states follow the plan from the given start and noise, ${kind}`, () => {
    const x = new Random(1).normal(260);
    const draws = [0, 1, 2, 3].map((k) => new Random(2, k).normal(260));
    for (const noise of [draws, (k) => draws[k]]) {
      const states = [...open().sample({ model: 0, plan: "toy4", x, noise })];
      assertEqual(states.map(({ index, t }) => [index, t]), [[0, 1], [1, 0.75], [2, 0.5], [3, 0.25], [4, 0]]);
      const expected = Float64Array.from(x);
      draws.forEach((draw) => expected.forEach((v, i) => (expected[i] = v + 0.025 * v + 0.0025 * draw[i])));
      assertClose(states[4].x, expected, 1e-6);
      assertClose(states[0].x, x, 0);
    }
  });

  test(`a seed is a sample, ${kind}`, () => {
    const last = (seed) => [...open().sample({ model: 0, plan: "toy1", n: 100, seed })].at(-1).x;
    assertEqual(last(3), last(3));
    assert(last(3)[0] !== last(4)[0]);
    assertEqual(open().path({ model: 0, plan: "toy1", x: [1, 2] })[0].x, [1, 2]);
    const path = open().path({ model: 0, plan: "toy4", x: Float64Array.of(1, 2) });
    assertEqual(path.map((state) => state.x.length), [2, 2, 2, 2, 2]);
  });

  test(`the field of an exact network is the exact one, ${kind}`, () => {
    const engine = open();
    const { alpha, sigma, d_alpha: dAlpha, d_sigma: dSigma } = engine.subject(0).levels;
    const { learned, exact, difference, error } = engine.field({ model: 0, level: 30, grid: GRID });
    assertClose(difference, new Float32Array(70), 1e-5);
    assertClose(error, new Float32Array(35), 1e-9);
    assertClose(learned, exact, 1e-5);
    const points = gridPoints(GRID, 2);
    assertClose(points.subarray(2 * 7 + 2, 2 * 7 + 4), [-2 + 4 / 6, -1 + 2.5 / 4], 1e-12);
    const factor = dAlpha[30] * alpha[30] + dSigma[30] * sigma[30]; // of x, as D = alpha x: variance preserving, so 0
    assertClose(learned, points.map((v) => factor * v), 1e-5);
  });

  test(`the flow of a normal law carries its density, ${kind}`, () => {
    for (const level of [0, 20, 64]) {
      const [{ learned, exact }, reports] = finish(open().density({ model: 0, level, grid: GRID }));
      assertEqual(reports.length, level + 1);
      assertClose(reports.at(-1).fraction, 1, 1e-12);
      const points = gridPoints(GRID, 2);
      const normal = exact.map((_, i) => -Math.log(2 * Math.PI) - (points[2 * i] ** 2 + points[2 * i + 1] ** 2) / 2);
      assertClose(exact, normal, 1e-9, "exact");
      assertClose(learned, normal, 2e-3, "learned");
    }
  });
}

const open = () => new Engine(...smallDocument(), given.wasm);

test("the flow of a mixture carries its density", () => {
  for (const level of [16, 40, 64]) {
    const [{ learned, exact }] = finish(open().density({ model: 1, level, grid: GRID }));
    learned.forEach((value, i) => {
      const off = Math.abs(value - exact[i]);
      assert(off < (exact[i] > -6 ? 0.03 : 0.5), `level ${level}, ${i}: ${value}, not ${exact[i]}`);
    });
  }
});

test("the error of an exact denoiser is none, of another one as much as they differ", () => {
  const [document, blob] = smallDocument();
  const [none, reports] = finish(new Engine(document, blob, given.wasm).errorCurve({ model: 1, n: 50 }));
  assertEqual([none.mean.length, none.n, reports.length], [65, 50, 65]);
  assertClose(none.mean, none.mean.map(() => 0), 1e-12);
  document.models[0].law = "pair"; // D = alpha x, but E[x_0 | x] = r(x) c + ...
  const engine = new Engine(document, blob, given.wasm);
  const [{ mean, se, sigma, logsnr }] = finish(engine.errorCurve({ model: 0, n: 1000, seed: 1 }));
  const [again] = finish(engine.errorCurve({ model: 0, n: 1000, seed: 2 }));
  assertClose([logsnr[0], logsnr[64]], [-9, 7], 1e-9);
  assertClose(sigma[64], Math.sin(Math.atan(Math.exp(-3.5))), 1e-9);
  let apart = 0;
  mean.forEach((value, l) => (apart += Math.abs(value - again.mean[l]) > 3 * Math.hypot(se[l], again.se[l])));
  assert(mean[32] > 0.01 && apart < 4, `${apart} levels differ`);
});

test("quality: exact samples lie within the floor's reach, wrong ones do not", () => {
  const [document, blob] = smallDocument();
  const engine = new Engine(document, blob, given.wasm);
  const [right, reports] = finish(engine.quality({ model: 0, sampler: "Toy", n: 400, seed: 1 }));
  assertEqual(right.points.map(({ steps, nfe }) => [steps, nfe]), [[1, 1], [4, 4], [100, 100]]);
  assertEqual(reports.filter((report) => report?.point).map(({ point }) => point.steps), [1, 4, 100]);
  const [low, high] = right.floor;
  assert(0.02 < low && low < high && high < 0.15, `floor ${right.floor}`);
  for (const { value, lo, hi } of right.points) assert(lo <= value && value <= hi && value < high + 0.1 && value > low);
  document.models[0].law = "pair";
  const [wrong] = finish(new Engine(document, blob, given.wasm).quality({ model: 0, sampler: "Toy", n: 400, seed: 1 }));
  assert(wrong.points.every(({ lo }) => lo > wrong.floor[1]), JSON.stringify(wrong));
});

test("sliced W1 of a shift is its mean projection", () => {
  const a = new Random(1).normal(2000);
  const b = a.map((v, i) => v + (i % 2 ? 0 : 0.7));
  const directions = randomDirections(2000, 2, new Random(1, "u"));
  assertClose(slicedW1(a, b, 2, directions), (0.7 * 2) / Math.PI, 0.02);
});

test("laws answer", () => {
  const engine = open();
  const points = Float64Array.of(0.3, -0.2);
  assertClose(engine.exact({ law: "normal", alpha: 0.8, sigma: 0.6, points }), points.map((v) => 0.8 * v), 1e-12);
  const { alpha } = engine.subject(0).levels;
  assertClose(engine.denoise({ model: 0, level: 64, points }), points.map((v) => alpha[64] * v), 1e-6);
  assertClose(engine.logDensity({ law: "normal", points }), [-Math.log(2 * Math.PI) - 0.065], 1e-12);
  assertEqual(engine.drawLaw({ law: "pair", n: 3, seed: 1 }).length, 6);
});

test("what is not there is an error in words", () => {
  const engine = open();
  assertThrows(() => engine.subject(9), "models are 0 to 2, given 9");
  assertThrows(() => engine.subject(2), "lost is not live: its weights are gone");
  assertThrows(() => engine.law("none"), "unknown");
  assertThrows(() => engine.denoise({ model: 0, level: 65, points: [0, 0] }), "levels are 0 to 64, given 65");
  assertThrows(() => new Engine({ version: 2 }, null), "given 2");
});
